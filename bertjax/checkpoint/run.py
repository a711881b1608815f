"""The steps of one run: saving in the background, deleting old steps, restoring the newest intact one.

Steps are listed from disk each time and not remembered. Orbax's CheckpointManager keeps a list that is wrong after a
failed save (0.12.8), so retention is implemented here.
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
    """A restored step. `skipped` names the damaged and half-written steps that were skipped, with the reasons."""

    step: int
    state: Any
    extra: Extra
    skipped: list[str]


def save(folder: Folder, step: int, state: Any, *, extra: Extra | None = None) -> None:
    """Writes `state` to `folder/step` and returns when it is on disk.

    Args:
      state: Any tree of jax and NumPy arrays, Python numbers and typed PRNG keys; optax states need no conversion.
      extra: JSON values (data position, config, versions, metrics). Tuples come back as lists.

    Raises:
      UserError: The step exists already and is intact; a leaf is not an array or number; `extra` is not JSON; the disk
        cannot be written.
    """
    with Checkpoints(folder, keep=None) as checkpoints:
        checkpoints.save(step, state, extra)


def restore(folder: Folder, template: Any, *, step: int | None = None) -> Restored:
    """Reads `step`, or the newest intact step, into the structure of `template`. Changes nothing on disk.

    Args:
      template: The tree to fill, of arrays or `jax.ShapeDtypeStruct`s. jax leaves get the template's sharding, whatever
        it was when they were saved (the first device if the template has none); NumPy arrays and Python numbers keep
        their type. Donated arrays can be used, because only their types are read.

    Raises:
      UserError: No step is intact; the given step is damaged or missing; paths, shapes or dtypes differ from the
        template's (nothing is cast).
    """
    path = folders.absolute(folder)
    if step is None:
        return _newest_intact(path, template)[0]
    if step not in steps(path):
        raise UserError(f"no step {step} in {path}; it holds: {listed(map(str, steps(path)), 8) or 'none'}.")
    try:
        return Restored(step, *one_step.read(path / str(step), template), [])
    except Damaged as damage:
        hint = "Omit `step` to restore the newest intact step."
        raise UserError(f"step {step} in {path} is damaged: {damage}.\n{hint}") from None


class Checkpoints:
    """The checkpoints of one training run: saved in the background, with retention and with recovery from damaged
    steps.

    Args:
      folder: Created if missing.
      keep: How many of the newest steps are kept; None keeps all.
      every: `save` writes only steps that are multiples of this; None writes every step it is given.
      best: Maps a step's `extra` to its score, higher is better, None for no score. The best step is kept too.

    In a run of several processes, all of them must make the same calls.
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
        self._current: int | None = None  # last step saved or restored; saving it again is allowed
        self._unfinished = False
        with folders.readable_errors(self.folder):
            folders.try_writing(self.folder)
        self._writer = one_step.writer()

    def save(self, step: int, state: Any, extra: Extra | None = None, *, force: bool = False) -> bool:
        """Starts writing a step. Returns whether it did. It waits for the previous write first.

        The arrays are copied before it returns, so the next training step may reuse their buffers.

        Args:
          force: Write even if the step is not a multiple of `every` (the last step, or before exiting on a signal).

        Raises:
          UserError: As `bertjax.checkpoint.save`; also if the previous write failed.
        """
        if step == self._current or not (force or self.every is None or step % self.every == 0):
            return False
        arrays = stored(state)
        content = record(types(state), arrays, extra or {})
        self.wait()
        with self._cleanup_on_error():
            self._free_number(step)
            one_step.start_writing(self._writer, self.folder / str(step), arrays, content)
        self._current, self._unfinished = step, True
        return True

    def restore_latest(self, template: Any) -> Restored | None:
        """As `restore` without a step, but returns None if no step was ever finished, and prepares the folder for new
        steps.

        Damaged steps are renamed to `bad-<step>`, and half-written ones are deleted.
        """
        self.wait()
        if not steps(self.folder):
            return None
        restored, damaged = _newest_intact(self.folder, template)
        with folders.readable_errors(self.folder):
            folders.rename_damaged(self.folder, damaged)
            folders.delete_half_written(self.folder)
        self._current = restored.step
        return restored

    def best_step(self) -> int | None:
        """The step with the highest score, the newest if several are equal; None if no step has a score."""
        scores = {step: score for step in steps(self.folder) if (score := self._score(step)) is not None}
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def wait(self) -> None:
        """Returns when the last save is on disk and old steps are deleted.

        Raises:
          UserError: That save failed. The steps before it are untouched.
        """
        unfinished, self._unfinished = self._unfinished, False
        with self._cleanup_on_error():
            self._writer.wait_until_finished()
            if unfinished:  # only now is the newest step known to be intact
                self._delete_old()

    def close(self) -> None:
        """Waits for the last save, then ends the background threads."""
        try:
            self.wait()
        finally:
            self._writer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _cleanup_on_error(self) -> Iterator[None]:
        """On an error of the disk, raises one sentence and removes what the failed write left in the folder and the
        writer."""
        try:
            with folders.readable_errors(self.folder):
                yield
        except UserError:
            self._current = None
            with contextlib.suppress(Exception):  # it may raise further errors of the same write
                self._writer.close()
            self._writer = one_step.writer()
            folders.delete_half_written(self.folder)  # frees space on a full disk
            raise

    def _free_number(self, step: int) -> None:
        """Renames a damaged step of this number, or deletes a half-written one. An intact step is never overwritten."""
        path = self.folder / str(step)
        if step not in steps(self.folder):
            folders.clear(path)
            return
        if one_step.damage(path) is None:
            raise UserError(f"step {step} is already in {self.folder}.\nSave another step, or delete {path} first.")
        folders.rename_damaged(self.folder, [step])

    def _delete_old(self) -> None:
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


def _newest_intact(folder: epath.Path, template: Any) -> tuple[Restored, list[int]]:
    """The newest intact step, and the damaged ones after it."""
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
    listing = listed(f"step {step}: {reason}" for step, reason in reasons.items())
    raise UserError(
        f"every checkpoint in {folder} is damaged: {listing}.\nDelete or move the folder to start from the beginning."
    )
