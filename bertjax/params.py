"""The parameter tree by path.

Everything that selects parameters (weight decay, freezing, quantisation, pruning) is an ordered list of `(regex,
value)` rules over paths such as `encoder/layer_0/attention/query/kernel`. The first match wins. A rule that matches
nothing is an error, because it is always a misspelling. Paths are public API.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from bertjax.errors import UserError

Value = TypeVar("Value")
Rules = Sequence[tuple[str, Value]]
Tree = dict[str, Any]


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": x}}` as `{"a/b": x}`, in the order of the tree."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: dict[str, Any]) -> Tree:
    """The inverse of `flatten`."""
    tree: Tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def assign(rules: Rules[Value], tree: Tree, default: Value) -> dict[str, Value]:
    """The value of each path: that of the first rule whose regex matches anywhere in it, else `default`.

    Raises:
      UserError: A rule matches no path at all.
    """
    compiled = [(re.compile(pattern), value) for pattern, value in rules]
    assigned, used = {}, set()
    for path in flatten(tree):
        matches = [(i, value) for i, (pattern, value) in enumerate(compiled) if pattern.search(path)]
        used.update(i for i, _ in matches)
        assigned[path] = matches[0][1] if matches else default
    for i, (pattern, _) in enumerate(rules):
        if i not in used:
            examples = ", ".join(list(assigned)[:4])
            raise UserError(f"the rule {pattern!r} matches no parameter; paths look like: {examples}.")
    return assigned


def select(pattern: str, tree: Tree) -> Tree:
    """The part of the tree whose paths match the regex; empty if none does."""
    return unflatten({path: leaf for path, leaf in flatten(tree).items() if re.search(pattern, path)})


def map_with_path(function: Callable[[str, Any], Any], tree: Tree, prefix: str = "") -> Tree:
    """`function(path, leaf)` for every leaf, as a tree of the same structure, including empty branches."""
    return {
        key: map_with_path(function, value, f"{path}/") if isinstance(value, dict) else function(path, value)
        for key, value in tree.items()
        for path in [prefix + key]
    }


def step_params(params: Tree, step: Any) -> Tree:
    """The parameters of one depth step (a `LayerConfig` with every group named), from the groups that hold them:
    attention and ffn, each with its LayerNorm, and everything else in the group of the attention."""
    stack = params["encoder"]
    norms = {"attention": step.attention_norm, "ffn": step.ffn_norm}
    parts = {
        part: {**stack[f"layer_{group}"][part], "layer_norm": stack[f"layer_{norms[part]}"][part]["layer_norm"]}
        for part, group in (("attention", step.attention), ("ffn", step.ffn))
    }
    return parts | {name: part for name, part in stack[f"layer_{step.attention}"].items() if name not in norms}


def put_step(stack: Tree, step: Any, source: Tree) -> None:
    """Adds the parameters of a depth step to the tree below `encoder`. Where several steps share a group, the first
    one's are kept."""
    norms = {"attention": step.attention_norm, "ffn": step.ffn_norm}
    for part, group in (("attention", step.attention), ("ffn", step.ffn)):
        products = {name: leaf for name, leaf in source[part].items() if name != "layer_norm"}
        for owner, arrays in ((group, products), (norms[part], {"layer_norm": source[part]["layer_norm"]})):
            target = stack.setdefault(f"layer_{owner}", {}).setdefault(part, {})
            target |= {name: leaf for name, leaf in arrays.items() if name not in target}
    group = stack[f"layer_{step.attention}"]
    group |= {name: part for name, part in source.items() if name not in (*norms, *group)}


def count(tree: Tree) -> int:
    """Number of parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())


def tree_differences(tree: Tree, expected: Tree) -> list[str]:
    """The differences in paths and shapes, one line each; empty if there are none."""
    a, b = flatten(tree), flatten(expected)
    lines = [f"missing: {path} {tuple(b[path].shape)}" for path in b if path not in a]
    lines += [f"unexpected: {path} {tuple(a[path].shape)}" for path in a if path not in b]
    shapes = [(path, tuple(a[path].shape), tuple(b[path].shape)) for path in a if path in b]
    return lines + [f"shape of {path}: {shape}, expected {needed}" for path, shape, needed in shapes if shape != needed]


def merge(tree: Tree, other: Tree) -> Tree:
    """The union of two trees that share no leaf."""
    merged = dict(tree)
    for name, branch in other.items():
        merged[name] = merge(merged[name], branch) if name in merged else branch
    return merged


def replaced(tree: Tree, other: Tree) -> Tree:
    """The tree with the leaves of another one, which are part of it."""
    return {**tree, **{name: replaced(tree[name], x) if isinstance(x, dict) else x for name, x in other.items()}}


def split_by_pattern(pattern: str, tree: Tree) -> tuple[Tree, Tree]:
    """(the leaves whose path does not match the regex, those whose path does).

    Raises:
      UserError: It matches none.
    """
    chosen = select(pattern, tree)
    if not chosen:
        some = ", ".join(list(flatten(tree))[:4])
        raise UserError(f"the regex {pattern!r} matches no parameter; paths look like: {some}.")
    return unflatten({path: x for path, x in flatten(tree).items() if not re.search(pattern, path)}), chosen
