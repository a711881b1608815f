"""The record of a training state: path, dtype, shape and digest of every leaf, as JSON with a checksum of its own.

It decides whether stored arrays are those that were saved, and whether they fit a template, before anything is cast or
broadcast. It does not depend on files or Orbax.
"""

import collections
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from jax.tree_util import keystr, tree_flatten_with_path

from bertjax.checkpoint.digest import digests
from bertjax.errors import UserError

Stored = jax.Array | np.ndarray
_PYTHON_NUMBERS = (bool, int, float, complex)


def named(tree: Any) -> dict[str, Any]:
    """The leaves by path (`opt/0/mu/pooler/kernel`), in the tree's order. A tree that is a single leaf has the path
    `value`.

    Raises:
      UserError: Two leaves have the same path, or one path is a prefix of another.
    """
    leaves = {}
    for keys, leaf in tree_flatten_with_path(tree)[0]:
        name = keystr(keys, simple=True, separator="/") or "value"
        if name in leaves:
            raise UserError(f"two entries of the state have the path {name!r}: rename a key.")
        leaves[name] = leaf
    # Orbax joins the parts of a path with dots, so `a.b` and `a/b` would be the same file.
    dotted = collections.Counter(name.replace("/", ".") for name in leaves)
    parents = {name[:i] for name in leaves for i, letter in enumerate(name) if letter == "/"}
    if clash := [name for name in leaves if name in parents or dotted[name.replace("/", ".")] > 1]:
        raise UserError(f"entries of the state would be stored under the same path ({listed(clash)}): rename a key.")
    return leaves


def types(tree: Any) -> dict[str, dict[str, Any]]:
    """Dtype, shape and (for typed PRNG keys) generator of each stored leaf, without reading any value."""
    return {name: _type(name, leaf) for name, leaf in named(tree).items()}


def stored(tree: Any) -> dict[str, Stored]:
    """The array that is stored for each leaf: PRNG keys as their data, Python numbers as NumPy arrays."""
    return {name: _stored(leaf) for name, leaf in named(tree).items()}


def record(kinds: dict[str, dict[str, Any]], arrays: dict[str, Stored], extra: dict[str, Any]) -> dict[str, Any]:
    """The record of a state, as it will be read back from JSON.

    Raises:
      UserError: `extra` cannot be represented in JSON.
    """
    by_name = dict(zip(arrays, digests(list(arrays.values())), strict=True))
    leaves = {name: entry | {"digest": by_name[name]} for name, entry in kinds.items()}
    try:
        content = json.loads(json.dumps({"leaves": leaves, "extra": extra}))
    except (TypeError, ValueError) as error:
        raise UserError(f"`extra` of a checkpoint must hold JSON values only: {error}.") from None
    return content | {"checksum": _checksum(content)}


def is_intact(content: Any) -> bool:
    """Whether this is a record whose checksum is correct."""
    if not isinstance(content, dict):
        return False
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return content.get("checksum") == _checksum(rest)


def changed(leaves: dict[str, dict[str, Any]], arrays: dict[str, Stored]) -> list[str]:
    """The paths of the arrays whose digest is not the recorded one."""
    computed = digests(list(arrays.values()))
    return [name for name, digest in zip(arrays, computed, strict=True) if digest != leaves[name]["digest"]]


def differences(template: dict[str, dict[str, Any]], leaves: dict[str, dict[str, Any]]) -> list[str]:
    """The differences between a template and a record, one line per kind: paths on one side only, then dtypes and
    shapes."""
    lines = []
    if missing := [name for name in template if name not in leaves]:
        lines.append(f"only in the template: {listed(missing)}")
    if unknown := [name for name in leaves if name not in template]:
        lines.append(f"only in the checkpoint: {listed(unknown)}")
    pairs = [(name, _text(leaves[name]), _text(template[name])) for name in template if name in leaves]
    if unlike := [f"{name} is {ours}, expected {theirs}" for name, ours, theirs in pairs if ours != theirs]:
        lines.append(f"stored with another dtype or shape: {listed(unlike, separator='; ')}")
    return lines


def listed(names: Iterable[str], most: int = 3, separator: str = ", ") -> str:
    """The first few names and the number of further ones."""
    names = list(names)
    more = f" (+{len(names) - most} more)" if len(names) > most else ""
    return separator.join(names[:most]) + more


def sharding(leaf: Any) -> Sharding | None:
    """The sharding of a template leaf. None for NumPy; the first device for a jax leaf without a sharding."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])
    return None


def as_given(leaf: Any, array: Stored, kind: dict[str, Any]) -> Any:
    """The stored array, converted to the type of the template's leaf."""
    if "generator" in kind:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=kind["generator"])
    if isinstance(leaf, _PYTHON_NUMBERS):
        return type(leaf)(array.item())
    return array[()] if isinstance(leaf, np.generic) else array


def _stored(leaf: Any) -> Stored:
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    elif not isinstance(leaf, jax.Array):
        return np.array(leaf)  # a copy, because the caller may change the original before it is written
    if jax.process_count() > 1 and leaf.is_fully_addressable:
        return np.array(leaf)  # every process has an equal copy; Orbax takes global arrays or NumPy arrays
    return leaf


def _type(name: str, leaf: Any) -> dict[str, Any]:
    if isinstance(leaf, _PYTHON_NUMBERS):
        leaf = np.asarray(leaf)
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        raise UserError(f"{name} of the state is a {type(leaf).__name__}; a checkpoint holds arrays and numbers only.")
    if _is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        return {"dtype": "uint32", "shape": list(data.shape), "generator": _generator(leaf)}
    if isinstance(leaf, jax.ShapeDtypeStruct) and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        raise UserError(f"{name}: jax holds {leaf.dtype} only with jax_enable_x64; use a NumPy array in the template.")
    if not (jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == np.bool_):
        raise UserError(f"{name} of the state has dtype {leaf.dtype}; a checkpoint holds arrays and numbers only.")
    return {"dtype": leaf.dtype.name, "shape": list(leaf.shape)}


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _generator(key: Any) -> str:
    """The name of a key's generator. It also works for an abstract key, for which jax has a public API only while
    tracing."""
    names = []
    jax.eval_shape(lambda k: names.append(str(jax.random.key_impl(k))), jax.ShapeDtypeStruct(key.shape, key.dtype))
    return names[0]


def _text(entry: dict[str, Any]) -> str:
    kind = f"{entry['generator']} key as {entry['dtype']}" if "generator" in entry else entry["dtype"]
    return f"{kind}[{','.join(map(str, entry['shape']))}]"


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
