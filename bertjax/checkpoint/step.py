"""One step folder, written and read with Orbax; the only module that imports Orbax.

A step is intact if its record is what was written and the bits of every array match the record. Otherwise `Damaged` is
raised, whatever Orbax, TensorStore or the file system raise.
"""

import contextlib
import functools
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from bertjax.checkpoint.record import Stored, as_given, changed, differences, is_intact, listed, named, sharding, types
from bertjax.errors import UserError
from bertjax.params import flatten, unflatten

# Orbax logs every error of its threads with hundreds of lines of traceback; all of them are raised here as well.
logging.getLogger("absl").addFilter(lambda line: not (line.exc_info and "orbax" in line.pathname))


class Damaged(Exception):
    """A step was changed after it was written. The message gives the reason without naming the step."""


def writer() -> ocp.AsyncCheckpointer:
    """A checkpointer that writes steps in the background, one at a time."""
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())


def start_writing(
    writer: ocp.AsyncCheckpointer, path: epath.Path, arrays: dict[str, Stored], record: dict[str, Any]
) -> None:
    """Copies the arrays and returns. The step gets its final name only when all of it is on disk."""
    filled = {name: array for name, array in arrays.items() if array.size}  # Orbax refuses empty arrays
    if not filled:
        raise UserError("the state is empty: no array in it has an element, so there is nothing to save.")
    items = {"state": ocp.args.StandardSave(unflatten(filled)), "record": ocp.args.JsonSave(record)}
    writer.save(path, args=ocp.args.Composite(**items))


def read(path: epath.Path, template: Any) -> tuple[Any, dict[str, Any]]:
    """State and `extra` of a step.

    Raises:
      Damaged: The step was changed after it was written.
      UserError: The step does not fit the template.
    """
    with _on_all_processes():
        content = read_record(path)
    expected, leaves = types(template), content["leaves"]
    if lines := differences(expected, leaves):
        raise UserError("\n".join([f"the checkpoint {path} does not fit the template:", *lines]))
    arrays = _intact_arrays(path, leaves, {name: sharding(leaf) for name, leaf in named(template).items()})
    filled = [as_given(leaf, arrays[name], expected[name]) for name, leaf in named(template).items()]
    return jax.tree.unflatten(jax.tree.structure(template), filled), content["extra"]


def read_record(path: epath.Path) -> dict[str, Any]:
    """The record of a step.

    Raises:
      Damaged: It is missing or changed.
    """
    try:
        if not any(path.iterdir()):
            raise Damaged("the folder is empty")
        content = json.loads((path / "record" / "metadata").read_text())  # Orbax's name for a JSON item
    except OSError as error:
        raise Damaged(f"record/metadata cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise Damaged("record/metadata is not JSON") from error
    if not is_intact(content):
        raise Damaged("record/metadata was changed after it was written")
    return content


def damage(path: epath.Path) -> str | None:
    """The reason why a step is damaged, or None. Reads all of the step into NumPy arrays."""
    try:
        with _on_all_processes():
            leaves = read_record(path)["leaves"]
        _intact_arrays(path, leaves, dict.fromkeys(leaves))
    except Damaged as error:
        return str(error)
    return None


def _intact_arrays(path: epath.Path, leaves: dict[str, Any], places: dict[str, Sharding | None]) -> dict[str, Stored]:
    """The arrays of a step with the given shardings (None: NumPy), after a comparison of their bits with the record."""
    _ignore_late_reads()
    with _on_all_processes():
        try:
            arrays = _load(path / "state", leaves, places)
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # a broken file may raise almost any exception
            raise Damaged(f"its arrays cannot be read ({_reason(error, path)})") from error
    with _on_all_processes():
        if wrong := changed(leaves, arrays):
            raise Damaged(f"the bits of {listed(wrong)} are not those that were saved")
    return arrays


def _load(path: epath.Path, leaves: dict[str, Any], places: dict[str, Sharding | None]) -> dict[str, Stored]:
    empty = {name: np.zeros(leaf["shape"], leaf["dtype"]) for name, leaf in leaves.items() if 0 in leaf["shape"]}
    targets = {name: _target(leaf, places[name]) for name, leaf in leaves.items() if name not in empty}
    # The handler itself and not a Checkpointer around it, because that waits for all processes, even for one that
    # failed.
    restored = ocp.StandardCheckpointHandler().restore(path, args=ocp.args.StandardRestore(unflatten(targets)))
    arrays = flatten(restored) | empty
    return {name: _placed(arrays[name], places[name]) for name in leaves}


def _target(leaf: dict[str, Any], place: Sharding | None) -> Any:
    """The template that is passed to Orbax. NumPy also for arrays that belong to this process alone."""
    shape, dtype = tuple(leaf["shape"]), np.dtype(leaf["dtype"])
    if place is None or (jax.process_count() > 1 and place.is_fully_addressable):
        return np.broadcast_to(np.zeros((), dtype), shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def _placed(array: Stored, place: Sharding | None) -> Stored:
    return jax.device_put(array, place) if place is not None and isinstance(array, np.ndarray) else array


@contextlib.contextmanager
def _on_all_processes() -> Iterator[None]:
    """Raises `Damaged` in all processes if one raises it; otherwise they would continue from different steps."""
    damage = None
    try:
        yield
    except Damaged as error:
        damage = error
    if jax.process_count() > 1 and multihost_utils.process_allgather(np.array(damage is not None)).any():
        damage = damage or Damaged("another process cannot read it")
    if damage:
        raise damage


@functools.cache
def _ignore_late_reads() -> None:
    """Suppresses the traceback that Python prints for every read that was in progress when another one failed.

    TensorStore reports these to coroutines and an event loop that Orbax has dropped by then (0.12.8). The failure
    itself is raised.
    """
    others = sys.unraisablehook

    def hook(late: Any) -> None:
        coroutine = getattr(late.object, "cr_code", None)
        if not ((coroutine and "orbax" in coroutine.co_filename) or str(late.exc_value) == "Event loop is closed"):
            others(late)

    sys.unraisablehook = hook


def _reason(error: BaseException, path: epath.Path) -> str:
    """The cause of an error, with names relative to the step and without the long TensorStore specification after
    it."""
    while error.__cause__:
        error = error.__cause__
    text = re.split(r" \[tensorstore_spec|\n", str(error) or type(error).__name__)[0]
    text = re.sub(r'^[A-Z_]+: |Error opening "\w+" driver: |( in OCDBT database)? at local file "[^"]*/"', "", text)
    return text.replace(f"{path}/", "")[:300]
