"""What the parts of an encoder layer cost: the common measure of every method that removes parts until a target is met.

A cost is the sum of the layers' attention and feed-forward sublayers, each a function of how many heads or neurons it
has, and of what no layer causes (`base`). Weights and FLOPs are counted; milliseconds come from a table that `bertjax
latency` measures (Kurtic et al. 2023, section 3). The trade-off: a sum of parts ignores what they share, such as the
memory that one leaves warm for the next.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.errors import UserError
from bertjax.model.config import BertConfig
from bertjax.prune.scores import Part
from bertjax.storage.paths import as_path, write_text
from bertjax.storage.typed_json import Count, Size, Within, build, check, read_json


@runtime_checkable
class Costs(Protocol):
    """The cost of a sublayer by the number of its parts. Counts may be fractions, and traced."""

    @property
    def base(self) -> float:
        """The cost of everything but the sublayers."""
        ...

    def cost(self, part: Part, count: Any) -> Any: ...


class LayerSizes(NamedTuple):
    """How many heads and neurons a layer has."""

    heads: Any
    neurons: Any


def model_cost(costs: Costs, config: BertConfig) -> Any:
    """The cost of a whole model."""
    return total_cost(costs, [LayerSizes(*step.shape) for step in config.depth_steps()])


def total_cost(costs: Costs, layers: Sequence[LayerSizes]) -> Any:
    """The cost of a model with these layers."""
    return costs.base + sum(costs.cost("heads", one.heads) + costs.cost("neurons", one.neurons) for one in layers)


class Weights:
    """Weights of the matrices of the encoder's layers, biases aside. The width, the number of hidden columns, may be
    traced."""

    base = 0.0

    def __init__(self, head_size: int, width: Any):
        self.each = {"heads": 4 * width * head_size, "neurons": 2 * width}

    def cost(self, part: Part, count: Any) -> Any:
        return self.each[part] * count


class Flops:
    """Floating-point operations of the products of the encoder's layers, for one text. The width may be traced."""

    base = 0.0

    def __init__(self, head_size: int, length: int, width: Any):
        heads = 8 * width * head_size + 4 * length * head_size  # the four matrices, then scores and values
        self.each = {"heads": length * heads, "neurons": length * 4 * width}

    def cost(self, part: Part, count: Any) -> Any:
        return self.each[part] * count


Milliseconds = Annotated[float, Within(0)]
Times = tuple[tuple[Count, Milliseconds], ...]
"""Milliseconds by number of parts, in ascending order."""


@dataclass(frozen=True)
class LatencyTable:
    """Measured times of the parts of an encoder layer, in one runtime on one machine."""

    base: Milliseconds
    """Milliseconds of a model whose layers have neither heads nor neurons."""
    heads: Times
    """Milliseconds of an attention sublayer by its number of heads, from 0 on."""
    neurons: Times
    """Milliseconds of a feed-forward sublayer by its number of neurons, from 0 on."""
    hidden_size: Size
    head_size: Size
    runtime: Literal["onnxruntime", "openvino", "jax"]
    threads: Size
    processor: str
    texts: str
    """What was timed: how many texts, and how long they are."""
    versions: dict[str, str]

    def __post_init__(self) -> None:
        check(self)
        for part in ("heads", "neurons"):
            counts = [count for count, _ in getattr(self, part)]
            if counts[:1] != [0] or counts != sorted(set(counts)) or len(counts) < 2:
                raise UserError(f"{part} of a table of times are {counts}; expected 0 and more counts, ascending.")

    def cost(self, part: Part, count: Any) -> Any:
        """Milliseconds of a sublayer, linear between two counts of the table."""
        counts, times = zip(*getattr(self, part), strict=True)
        if isinstance(count, jax.Array):
            return jnp.interp(count, jnp.asarray(counts, jnp.float32), jnp.asarray(times, jnp.float32))
        return float(np.interp(count, counts, times))

    def save(self, path: str) -> None:
        """Writes the table as JSON."""
        write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def check_model(self, config: BertConfig, name: str) -> None:
        """Raises a `UserError` if the table is not about layers like those of the model."""
        sizes = (self.hidden_size, self.head_size), (config.hidden_size, config.head_size)
        largest = map(max, zip(*(step.shape for step in config.depth_steps()), strict=True))
        for part, count in zip(("heads", "neurons"), largest, strict=True):
            most = getattr(self, part)[-1][0]
            if sizes[0] != sizes[1] or most < count:
                raise UserError(
                    f"{name} has times for a hidden size of {sizes[0][0]}, heads of {sizes[0][1]} columns and up to "
                    f"{most} {part}; the model has {sizes[1][0]}, {sizes[1][1]} and {count}. Measure a table for it: "
                    "bertjax latency."
                )


def read_table(path: str) -> LatencyTable:
    """The table in a file that `bertjax latency` wrote."""
    place = as_path(path)
    if not place.is_file():
        raise UserError(f"{path}: no such file; measure a table of times first: bertjax latency --out=FOLDER.")
    return build(LatencyTable, read_json(place), path)
