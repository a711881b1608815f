"""What a trial will take, before it exists: milliseconds from measured times, bytes by counting.

The time of a shape is a sum of terms with unknown prices: a layer, its heads and neurons, their products with the
hidden columns, and the same for the last layer, of which a classifier computes one row. The prices are fitted, none
below 0, to the measured times of some twenty shapes of the grid, with the relative error as the weight. A table of the
parts of one model (`bertjax latency`) would be cheaper and does not say what a shape of fewer layers takes, nor a
narrower one. The trade-off: the sum is blind to caches, so the error that it makes on shapes that it was not fitted
to is estimated (leave-one-out) and said.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float

from bertjax.params import Rules
from bertjax.quantized.formats import Format
from bertjax.quantized.packing import packed_size
from bertjax.search.space import Form, Shape
from bertjax.storage.typed_json import Within, check

Times = tuple[tuple[Shape, Annotated[float, Within(0)]], ...]


@dataclass(frozen=True)
class Measured:
    """Milliseconds of exported shapes, one text at a time, in floating point and in integers, and of the teacher."""

    teacher: Annotated[float, Within(0)]
    floats: Times
    integers: Times

    def __post_init__(self) -> None:
        check(self)


class TimeModel:
    """Milliseconds of any shape of the grid, from those that were measured."""

    def __init__(self, times: Times):
        self.prices, self.measured = fit(times), times

    def __call__(self, shape: Shape) -> float:
        return float(features(shape) @ self.prices)

    def error(self) -> float:
        """The median relative error on a measured shape when the prices are fitted to the others."""
        rest = [tuple(other for other in self.measured if other is not one) for one in self.measured]
        found = [abs(features(shape) @ fit(r) / ms - 1) for r, (shape, ms) in zip(rest, self.measured, strict=True)]
        return float(np.median(found))


def features(shape: Shape) -> Float[np.ndarray, "terms"]:
    """How often each term occurs in a shape; products in thousands of weights."""
    h, inner = shape.hidden / 1000, shape.layers - 1
    mapped = shape.embedding * h * (shape.embedding < shape.hidden)
    full = [1, shape.heads, shape.heads * h, shape.neurons, shape.neurons * h]
    return np.array([1, h, mapped, *(inner * term for term in full), shape.heads * h, shape.neurons * h])


def fit(times: Times) -> Float[np.ndarray, "terms"]:
    """The prices with the least sum of squared relative errors, none below 0."""
    from scipy.optimize import nnls

    rows = np.array([features(shape) / ms for shape, ms in times])
    scale = np.abs(rows).max(axis=0) + 1e-30  # the solver's tolerance is absolute
    return nnls(rows / scale, np.ones(len(rows)))[0] / scale


GRAPH = {False: (2_300, 3_330), True: (3_700, 6_760)}
"""Bytes of nodes and names in an ONNX file, and of each layer, by whether the weights are integers."""


def file_bytes(
    shapes: Mapping[str, tuple[int, ...]], form: Form, words: int, recipe: Rules[Format | None], layers: int
) -> int:
    """The size of the ONNX file with parameters of these shapes.

    Args:
      words: Rows of the word table.
      recipe: The formats of weights in the quantisation's recipe.
    """
    base, each = GRAPH[form.integers]
    total, rules = base + each * layers, form.rules(recipe)
    for path, sizes in shapes.items():
        sizes = (words, *sizes[1:]) if path == "embeddings/word/embedding" else sizes
        total += parameter_bytes(path, sizes, rules)
        total += 8 * sizes[0] if path == "embeddings/position/embedding" else 0  # the numbers of the positions
    return total


def parameter_bytes(path: str, sizes: Sequence[int], rules: Rules[Format | None]) -> int:
    """The bytes of a parameter in an ONNX file: packed integers and the scales of their blocks, or floating point."""
    format = next((one for pattern, one in rules if re.search(pattern, path)), None)
    if format is None or len(sizes) != 2:
        return 4 * int(np.prod(sizes))
    blocks = [
        math.ceil(size / (block or size))
        for size, block in zip(sizes, (format.block_rows, format.block_cols), strict=True)
    ]
    scales = 4 * math.prod(blocks) * (2 if format.scheme == "asymmetric" else 1)
    stored = math.prod(sizes) if format.bits == 7 else packed_size(math.prod(sizes), format)
    zero_points = sizes[1] if path.endswith("kernel") else 0
    return stored + scales + zero_points
