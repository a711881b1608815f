"""The teacher's outputs on a data set, computed once and stored.

A teacher's outputs do not change between epochs, so its forward pass is needed only once. Stored are the logits per
row, in float32, and the layer outputs that a loss needs per real token, without padding, in float16, which is precise
enough for distillation. Attention is stored as queries and keys, which are smaller than attention maps.

The folder's name is a hash of the teacher's config and weights, the exact token ids and types, and the stored fields.
Outputs of another model or other text are therefore never used by mistake.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.learn.loss import Need
from bertjax.machine.xla import Forward
from bertjax.model import BertModel
from bertjax.params import Tree, flatten
from bertjax.storage.paths import atomic_folder
from bertjax.text.batches import Batch, eval_batches, inputs_of
from bertjax.text.buckets import length_buckets
from bertjax.text.encode import Encoded


class TeacherOutput(NamedTuple):
    """The stored part of a `ModelOutput`, with the same indices."""

    logits: Array
    hidden_states: Mapping[int, Array]
    """[b, l, d], or [b, 1, d] where only first rows were stored."""
    queries: Mapping[int, Array]
    keys: Mapping[int, Array]
    values: Mapping[int, Array]


class StoredOutputs:
    """Stored outputs. `add_to(batch)` adds those of the batch's rows to the batch."""

    def __init__(self, folder: Path, encoded: Encoded, needs: tuple[Need, ...], name: str = "teacher"):
        self.folder, self.needs, self.name = folder, needs, name
        self.seconds = float((folder / "seconds").read_text()) if (folder / "seconds").is_file() else None
        """Seconds that computing them took, in this run or an earlier one; None if an older version stored them."""
        self._offsets = encoded.offsets
        self._logits = np.load(folder / "logits.npy", mmap_mode="r")
        self._arrays = {need: np.load(folder / f"{file_name(need)}.npy", mmap_mode="r") for need in needs}
        self._by_token = bool(len(self._logits) == encoded.offsets[-1] != len(encoded))

    def add_to(self, batch: Batch) -> Batch:
        """The batch with `<name>_logits` and `<name>_<field>_<index>`; zeros at padding and in filler rows."""
        rows, mask = batch["example_ids"], batch["attention_mask"]
        if "segment_ids" in batch:
            of_tokens = np.take_along_axis(rows, np.maximum(batch["segment_ids"] - 1, 0), axis=1)
            column = batch["position_ids"]
        else:
            of_tokens, column = rows[:, None], np.arange(mask.shape[1])
        where = np.where(mask > 0, self._offsets[of_tokens] + column, 0)

        def read(array: np.ndarray, by_token: bool) -> np.ndarray:
            if not by_token:
                return np.asarray(array[np.maximum(rows, 0)])
            found = np.asarray(array)[where]
            found[mask == 0] = 0
            return found

        found = {
            f"{self.name}_{file_name(need)}": read(array, need[0] != "first") for need, array in self._arrays.items()
        }
        return {**batch, f"{self.name}_logits": read(self._logits, self._by_token), **found}

    def output(self, batch: Mapping[str, Any]) -> TeacherOutput:
        """The teacher's output in the form that losses read, from inside the step."""
        parts: dict[str, dict[int, Array]] = {name: {} for name in TeacherOutput._fields[1:]}
        for name, place in sorted(self.needs):  # "first" before "hidden_states", whose full states replace it
            array = batch[f"{self.name}_{file_name((name, place))}"]
            if name == "first":
                parts["hidden_states"][place] = array[:, None]
            else:
                parts[name][place] = array
        return TeacherOutput(batch[f"{self.name}_logits"], **parts)


def file_name(need: Need) -> str:
    return f"{need[0]}_{need[1]}"


def stored_outputs(
    folder: Path,
    teacher: Bundle,
    encoded: Encoded,
    needs: frozenset[Need],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
    name: str = "teacher",
) -> StoredOutputs:
    """The teacher's outputs for every row: read from `folder` if stored there, otherwise computed and written.

    Args:
      needs: What to store besides the logits.
      progress: Called with (rows done, rows in total).
      name: Prefix of the arrays in a batch; distinguishes several teachers.

    Raises:
      UserError: A value overflows float16, or the disk cannot be written.
    """
    ordered = tuple(sorted(needs))
    place = folder / identity(teacher, encoded, ordered)
    if not place.is_dir():
        with atomic_folder(place) as new:
            began = time.monotonic()
            compute(new, teacher, encoded, ordered, batch_size, progress)
            (new / "seconds").write_text(f"{time.monotonic() - began:.3f}")
    return StoredOutputs(place, encoded, ordered, name)


def teacher_bytes(teacher: Bundle, encoded: Encoded, needs: frozenset[Need]) -> int:
    """Disk space of the stored outputs, within a few hundred bytes."""
    tokens = int(encoded.offsets[-1])
    by_token = encoded.task.kind in ("tokens", "qa")
    logits = (tokens if by_token else len(encoded)) * teacher.config.output_size * 4
    rows = {need: len(encoded) if need[0] == "first" else tokens for need in needs}
    return logits + sum(2 * rows[need] * int(np.prod(shape_of(teacher, need))) for need in needs)


def shape_of(teacher: Bundle, need: Need) -> tuple[int, ...]:
    """The shape of an output per token, or per row for ("first", i)."""
    name, place = need
    if name in ("hidden_states", "first"):
        return (teacher.config.hidden_size,)
    return teacher.config.depth_steps()[place].num_attention_heads, teacher.config.head_size


def identity(teacher: Bundle, encoded: Encoded, needs: tuple[Need, ...]) -> str:
    """A hash of everything that the outputs depend on."""
    digest = hashlib.sha256(json.dumps([dataclasses.asdict(teacher.config), needs]).encode())
    digest.update(encoded.ids.tobytes() + encoded.type_ids.tobytes() + encoded.offsets.tobytes())
    for path, leaf in flatten(teacher.params).items():
        digest.update(path.encode())
        for array in jax.tree.leaves(leaf):  # quantised weights have scales, too
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


@partial(Forward, static=("needs",))
def outputs(
    model: BertModel, params: Tree, ids: Array, mask: Array, types: Array, needs: tuple[Need, ...]
) -> tuple[Array, list[Array]]:
    output: Any = model.apply({"params": params}, ids, mask, types)

    def stored(name: str, place: int) -> Array:
        return output.hidden_states[place][:, 0] if name == "first" else getattr(output, name)[place]

    return output.logits.astype(jnp.float32), [stored(*need).astype(jnp.float16) for need in needs]


def compute(
    folder: Path,
    teacher: Bundle,
    encoded: Encoded,
    needs: tuple[Need, ...],
    batch_size: int,
    progress: Callable[[int, int], None],
) -> None:
    """Runs the teacher on every row, shortest first, and writes its outputs."""
    tokens, rows_in_all = int(encoded.offsets[-1]), len(encoded)
    by_token = encoded.task.kind in ("tokens", "qa")
    create = partial(np.lib.format.open_memmap, mode="w+")

    def array_for(need: Need) -> np.memmap:
        shape = (rows_in_all if need[0] == "first" else tokens, *shape_of(teacher, need))
        return create(folder / f"{file_name(need)}.npy", dtype=np.float16, shape=shape)

    logits_shape = (tokens if by_token else rows_in_all, teacher.config.output_size)
    logits = create(folder / "logits.npy", dtype=np.float32, shape=logits_shape)
    arrays = [array_for(need) for need in needs]
    done = 0
    buckets = length_buckets(encoded.lengths, teacher.config.max_tokens)
    for batch in eval_batches(encoded, batch_size, buckets):
        computed = outputs(teacher.model, teacher.device_params, *inputs_of(batch), needs)
        batch_logits, batch_arrays = jax.device_get(computed)
        rows, real = batch["example_ids"], batch["attention_mask"] > 0
        where = (encoded.offsets[rows][:, None] + np.arange(real.shape[1]))[real]
        of_rows = rows[rows >= 0], rows >= 0
        for need, array, batch_array in zip(needs, arrays, batch_arrays, strict=True):
            to, chosen = of_rows if need[0] == "first" else (where, real)
            if not np.isfinite(batch_array[chosen]).all():
                raise UserError(
                    f"the teacher's outputs {file_name(need)} have values that float16, in which they would be stored, "
                    "cannot hold; use --store=False, which runs the teacher in every step instead."
                )
            array[to] = batch_array[chosen]
        to, chosen = (where, real) if by_token else of_rows
        logits[to] = batch_logits[chosen]
        done += int((rows >= 0).sum())
        progress(done, rows_in_all)
    for array in (logits, *arrays):
        array.flush()
