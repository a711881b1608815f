"""What the teacher says of a data set, computed once and stored.

A teacher's outputs do not change from epoch to epoch, so its forward pass is paid once: logits per row, and the hidden
states that a loss asks for, per real piece (no padding is stored). States are kept in half precision, which is far
finer than a student can follow; logits in single. What is stored is named by a hash of the teacher's config and its
weights, the exact ids and types that it was fed, and the layers: outputs of another model or of other text are never
found by mistake.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.model import BertModel
from bertjax.params import Tree, flatten
from bertjax.text.batches import Batch, eval_batches, inputs_of
from bertjax.text.buckets import length_buckets
from bertjax.text.encode import Encoded
from bertjax.xla import Forward


class TeacherOutput(NamedTuple):
    """The part of a `ModelOutput` that was stored; `hidden_states` by position, as in a `ModelOutput`."""

    logits: Array
    hidden_states: Mapping[int, Array]


class StoredOutputs:
    """Stored outputs, read row by row: `add_to(batch)` puts those of a batch beside its texts."""

    def __init__(self, folder: Path, encoded: Encoded, layers: tuple[int, ...]):
        self.folder, self.layers = folder, layers
        self._offsets = encoded.offsets
        self._logits = np.load(folder / "logits.npy", mmap_mode="r")
        self._states = {layer: np.load(folder / f"hidden_{layer}.npy", mmap_mode="r") for layer in layers}
        self._by_piece = len(self._logits) == encoded.offsets[-1] and len(self._logits) != len(encoded)

    def add_to(self, batch: Batch) -> Batch:
        """The batch with `teacher_logits` and `teacher_hidden_<layer>`; zeros on padding and filler rows."""
        rows, mask = batch["example_ids"], batch["attention_mask"]
        where = np.where(mask > 0, self._offsets[rows][:, None] + np.arange(mask.shape[1]), 0)
        logits = self._pieces(self._logits, where, mask) if self._by_piece else self._logits[np.maximum(rows, 0)]
        states = {f"teacher_hidden_{n}": self._pieces(array, where, mask) for n, array in self._states.items()}
        return {**batch, "teacher_logits": np.asarray(logits), **states}

    def output(self, batch: Mapping[str, Any]) -> TeacherOutput:
        """The teacher's output as losses read it, inside the step."""
        return TeacherOutput(batch["teacher_logits"], {n: batch[f"teacher_hidden_{n}"] for n in self.layers})

    @staticmethod
    def _pieces(array: np.ndarray, where: Int[np.ndarray, "b l"], mask: Int[np.ndarray, "b l"]) -> np.ndarray:
        return np.where(mask[..., None] > 0, array[where], np.zeros((), array.dtype))


def stored_outputs(
    folder: Path,
    teacher: Bundle,
    encoded: Encoded,
    layers: frozenset[int],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StoredOutputs:
    """The teacher's outputs for every row, from `folder` if they are there, else computed and written.

    Args:
      layers: Positions in `hidden_states` to store; 0 is the embedding.
      progress: Called with (rows done, rows in all).

    Raises:
      UserError: A state is too large for half precision; the disk refuses.
    """
    ordered = tuple(sorted(layers))
    place = folder / identity(teacher, encoded, ordered)
    if not place.is_dir():
        partial_folder = place.with_name(f".{place.name}.{os.getpid()}.partial")
        try:
            partial_folder.mkdir(parents=True)
            compute(partial_folder, teacher, encoded, ordered, batch_size, progress)
            os.replace(partial_folder, place)
        except OSError as error:
            raise UserError(f"cannot store the teacher's outputs in {folder}: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(partial_folder, ignore_errors=True)
    return StoredOutputs(place, encoded, ordered)


def stored_bytes(teacher: Bundle, encoded: Encoded, layers: frozenset[int]) -> int:
    """What storing takes on disk, within a few hundred bytes."""
    width = teacher.config.hidden_size
    by_piece = encoded.task.kind in ("tokens", "qa")
    logits = (int(encoded.offsets[-1]) if by_piece else len(encoded)) * len(teacher.config.labels) * 4
    return logits + len(layers) * int(encoded.offsets[-1]) * width * 2


def identity(teacher: Bundle, encoded: Encoded, layers: tuple[int, ...]) -> str:
    """Names outputs by everything they depend on."""
    digest = hashlib.sha256(json.dumps([dataclasses.asdict(teacher.config), layers]).encode())
    digest.update(encoded.ids.tobytes() + encoded.type_ids.tobytes() + encoded.offsets.tobytes())
    for path, leaf in flatten(teacher.params).items():
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]


@partial(Forward, static=("layers",))
def outputs(
    model: BertModel, params: Tree, ids: Array, mask: Array, types: Array, layers: tuple[int, ...]
) -> tuple[Array, list[Array]]:
    output = model.apply({"params": params}, ids, mask, types)
    states = [output.hidden_states[layer].astype(jnp.float16) for layer in layers]  # type: ignore[union-attr]
    return output.logits.astype(jnp.float32), states  # type: ignore[union-attr]


def compute(
    folder: Path,
    teacher: Bundle,
    encoded: Encoded,
    layers: tuple[int, ...],
    batch_size: int,
    progress: Callable[[int, int], None],
) -> None:
    """Runs the teacher over every row, shortest first, and writes each output to its place."""
    pieces, width = int(encoded.offsets[-1]), teacher.config.hidden_size
    by_piece = encoded.task.kind in ("tokens", "qa")
    shape = (pieces if by_piece else len(encoded), len(teacher.config.labels))
    create = partial(np.lib.format.open_memmap, mode="w+")
    logits = create(folder / "logits.npy", dtype=np.float32, shape=shape)
    states = [create(folder / f"hidden_{n}.npy", dtype=np.float16, shape=(pieces, width)) for n in layers]
    done = 0
    buckets = length_buckets(encoded.lengths, teacher.config.max_position_embeddings)
    for batch in eval_batches(encoded, batch_size, buckets):
        inputs = inputs_of(batch)
        computed = outputs(teacher.model, teacher.device_params, *inputs, layers)
        batch_logits, batch_states = jax.device_get(computed)
        rows, real = batch["example_ids"], batch["attention_mask"] > 0
        where = (encoded.offsets[rows][:, None] + np.arange(real.shape[1]))[real]
        for array, state in zip(states, batch_states, strict=True):
            if not np.isfinite(state[real]).all():
                raise UserError("the teacher's hidden states are too large for half precision; use --store=False.")
            array[where] = state[real]
        if by_piece:
            logits[where] = batch_logits[real]
        else:
            logits[rows[rows >= 0]] = batch_logits[rows >= 0]
        done += int((rows >= 0).sum())
        progress(done, len(encoded))
    for array in (logits, *states):
        array.flush()
