"""Which matrix products of a program use integers, counted in the program itself.

The traced program gives each product of a dense layer with its site. The compiled program shows what the device runs,
where the compiler may have converted int8 to floating point. Comparing both shows products that were not quantised.
"""

import re
from collections import Counter
from typing import Any, NamedTuple

import jax


class Traced(NamedTuple):
    """One matrix product of a traced program, with the dtypes of its operands and result."""

    site: str
    """The site name of a dense layer; for other products the name scope."""
    left: str
    right: str
    result: str
    operations: int
    """Multiplications plus additions."""


def traced_products(function: Any, *inputs: Any) -> list[Traced]:
    """Every `dot_general` of a function, in order, including those in inner functions. Inputs may be shapes."""
    products: list[Traced] = []
    _collect(jax.make_jaxpr(function)(*inputs).jaxpr, products)
    return products


def _collect(jaxpr: Any, products: list[Traced]) -> None:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, right = (v.aval for v in equation.invars)
            result = equation.outvars[0].aval
            contracted = equation.params["dimension_numbers"][0][0]
            operations = 2 * result.size
            for axis in contracted:
                operations *= left.shape[axis]
            scope = str(equation.source_info.name_stack)
            site = re.search(r"\[(.*)\]$", scope)
            dtypes = [str(aval.dtype) for aval in (left, right, result)]
            products.append(Traced(site[1] if site else scope, dtypes[0], dtypes[1], dtypes[2], operations))
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "jaxpr"):
                    _collect(getattr(inner.jaxpr, "jaxpr", inner.jaxpr), products)
                elif hasattr(inner, "eqns"):
                    _collect(inner, products)


def executed_products(compiled: Any) -> Counter[str]:
    """The number of matrix products of each kind in a compiled program, for example "s8 x s8 -> s32"."""
    kinds: Counter[str] = Counter()
    for text in re.split(r"\n\n", compiled.as_text()):
        types = dict(re.findall(r"(%[\w.\-]+) = \(?(\w+)\[", text))
        types |= {f"%{name}": kind for name, kind in re.findall(r"[(\s](\w[\w.\-]*): (\w+)\[", text)}
        for kind, left, right in re.findall(r"= (\w+)\[[^=]*? dot\((%[\w.\-]+), (%[\w.\-]+)\)", text):
            kinds[f"{types.get(left, '?')} x {types.get(right, '?')} -> {kind}"] += 1
    return kinds
