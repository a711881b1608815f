"""The steps of one run: saving in the background, thinning out, walking back to the newest step that is whole.

Steps are looked up on disk, never remembered: Orbax's CheckpointManager keeps a list that is wrong after a failed save
(0.12.8), so retention stands here.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from etils import epath

from bertjax.checkpoint import folder as folders
from bertjax.checkpoint import step as one_step
from bertjax.checkpoint.folder import Folder, steps
from bertjax.checkpoint.record import listed, record, stored, types
from bertjax.checkpoint.step import Damaged
from bertjax.errors import UserError

Extra = dict[str, Any]


class Restored(NamedTuple):
    """A step read back. `skipped` names the damaged and half-written steps that were passed over, with the reasons."""

    step: int
    state: Any
    extra: Extra
    skipped: list[str]


def save(folder: Folder, step: int, state: Any, *, extra: Extra | None = None) -> None:
    """Writes `state` to `folder/step` and returns when it is there.

    Args:
      state: Any tree of jax and NumPy arrays, Python numbers and typed PRNG keys; optax states as they are.
      extra: What JSON can hold (data position, config, versions, metrics). Tuples come back as lists.

    Raises:
      UserError: The step is there already and whole; a leaf is no array; `extra` is not JSON; the disk refuses.
    """
    with Checkpoints(folder, keep=None) as checkpoints:
        checkpoints.save(step, state, extra)


def restore(folder: Folder, template: Any, *, step: int | None = None) -> Restored:
    """Reads `step`, or the newest step that is whole, into the structure of `template`. Changes nothing on disk.

    Args:
      template: The tree to fill, of arrays or `jax.ShapeDtypeStruct`s. jax leaves land on the template's sharding,
        whatever it was when they were saved (the first device where it says none); NumPy arrays and Python numbers
        come back as such. Donated arrays will do: only types are looked at.

    Raises:
      UserError: No step is whole; the given step is damaged or missing; paths, shapes or dtypes differ from the
        template's (nothing is cast).
    """
    path = folders.absolute(folder)
    if step is None:
        return _newest_whole(path, template)[0]
    if step not in steps(path):
        raise UserError(f"no step {step} in {path}; it holds: {listed(map(str, steps(path)), 8) or 'none'}.")
    try:
        return Restored(step, *one_step.read(path / str(step), template), [])
    except Damaged as damage:
        hint = "Leave the step out to get the newest one that is whole."
        raise UserError(f"step {step} in {path} is damaged: {damage}.\n{hint}") from None


class Checkpoints:
    """The checkpoints of one training run: written in the background, thinned out, walked back over where damaged.

    Args:
      folder: Made if missing.
      keep: How many of the newest steps stay; None keeps all.
      every: `save` writes only steps that this divides; None writes every step it is given.
      best: From a step's `extra` to its score, higher is better, None for no score. The best step stays too.

    In a run of many processes, all make the same calls.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        keep: int | None = 2,
        every: int | None = None,
        best: Callable[[Extra], float | None] | None = None,
    ):
        if (keep is not None and keep < 1) or (every is not None and every < 1):
            raise UserError(f"`keep` and `every` must be 1 or more (or None), given keep={keep}, every={every}.")
        self.folder, self.keep, self.every, self.best = folders.absolute(folder), keep, every, best
        self._current: int | None = None  # the step saved or restored last: being given it again is no mistake
        self._unfinished = False
        with folders.readable_errors(self.folder):
            folders.try_writing(self.folder)
        self._writer = one_step.writer()

    def save(self, step: int, state: Any, extra: Extra | None = None, *, force: bool = False) -> bool:
        """Starts writing and returns whether it did. It first waits for the write before.

        The arrays are copied by the time it returns, so the next training step may be given their buffers.

        Args:
          force: Write also where `every` says no (the last step, or before leaving on a signal).

        Raises:
          UserError: As `bertjax.checkpoint.save`; also if the write before this one failed.
        """
        if step == self._current or not (force or self.every is None or step % self.every == 0):
            return False
        arrays = stored(state)
        content = record(types(state), arrays, extra or {})
        self.wait()
        with self._cleared_up():
            self._make_way(step)
            one_step.start_writing(self._writer, self.folder / str(step), arrays, content)
        self._current, self._unfinished = step, True
        return True

    def restore_latest(self, template: Any) -> Restored | None:
        """As `restore` without a step, but None where no step was ever finished, and it clears the way for new ones.

        Damaged steps are renamed `bad-<step>`, and what was half-written is deleted.
        """
        self.wait()
        if not steps(self.folder):
            return None
        restored, damaged = _newest_whole(self.folder, template)
        with folders.readable_errors(self.folder):
            folders.set_aside(self.folder, damaged)
            folders.delete_half_written(self.folder)
        self._current = restored.step
        return restored

    def best_step(self) -> int | None:
        """The step with the highest score (the newest of equals); None if none has a score."""
        scores = {step: score for step in steps(self.folder) if (score := self._score(step)) is not None}
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def wait(self) -> None:
        """Returns when the last save is on disk and the steps are thinned out.

        Raises:
          UserError: That save failed. The steps before it are untouched.
        """
        unfinished, self._unfinished = self._unfinished, False
        with self._cleared_up():
            self._writer.wait_until_finished()
            if unfinished:  # only then is the newest step known to be whole
                self._thin_out()

    def close(self) -> None:
        """Waits, then ends the background threads."""
        try:
            self.wait()
        finally:
            self._writer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _cleared_up(self) -> Iterator[None]:
        """Where the disk refuses: one sentence, and neither the folder nor the writer keeps anything of the attempt."""
        try:
            with folders.readable_errors(self.folder):
                yield
        except UserError:
            self._current = None
            with contextlib.suppress(Exception):  # it may hold more errors of the same write, to raise them later
                self._writer.close()
            self._writer = one_step.writer()
            folders.delete_half_written(self.folder)  # on a full disk, these bytes are the ones that are missing
            raise

    def _make_way(self, step: int) -> None:
        """Sets a damaged step of this number aside, and deletes half of one; a whole one is never overwritten."""
        path = self.folder / str(step)
        if step not in steps(self.folder):
            folders.clear(path)
            return
        if one_step.damage(path) is None:
            raise UserError(f"step {step} is already in {self.folder}.\nSave another step, or delete {path} first.")
        folders.set_aside(self.folder, [step])

    def _thin_out(self) -> None:
        old = steps(self.folder)[: -self.keep] if self.keep else []
        if old and jax.process_index() == 0:
            best = self.best_step()
            for step in old:
                if step not in (best, self._current):
                    (self.folder / str(step)).rmtree()

    def _score(self, step: int) -> float | None:
        if self.best is None:
            return None
        try:
            score = self.best(one_step.read_record(self.folder / str(step))["extra"])
        except Damaged:
            return None
        return None if score is None or math.isnan(score) else score


def _newest_whole(folder: epath.Path, template: Any) -> tuple[Restored, list[int]]:
    """The newest step that is whole, and the damaged ones above it."""
    reasons = {}
    for step in reversed(steps(folder)):
        try:
            state, extra = one_step.read(folder / str(step), template)
        except Damaged as damage:
            reasons[step] = str(damage)
            continue
        skipped = [f"step {bad}: {reason}" for bad, reason in reasons.items()]
        skipped += [f"step {path.name.split('.')[0]}: half-written" for path in folders.half_written(folder)]
        return Restored(step, state, extra, skipped), list(reasons)
    if not reasons:
        raise UserError(f"no checkpoint in {folder}.")
    found = listed(f"step {step}: {reason}" for step, reason in reasons.items())
    raise UserError(f"every checkpoint in {folder} is damaged: {found}.\nDelete or move the folder to start anew.")
