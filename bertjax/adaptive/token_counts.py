"""Arrays as small as the tokens that are left, where a threshold decides how many that is.

A share of the text's length is known before the model runs, so the arrays of every layer have their size from the
beginning. With thresholds the number is known only after the attention of a layer. `TokenCountExecutor` therefore runs
a third of the layers at a time. Then the host reads how many tokens the text with the most of them has left, and the
next layers run at the smallest size that holds them.

The trade-off: every size is a program of its own, and the host waits for the device between them. So there are two such
places and eight sizes for each length. In a batch the text with the most tokens decides.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from bertjax.machine.xla import Forward
from bertjax.model import BertModel, key_mask
from bertjax.model.tokens import Tokens, all_tokens
from bertjax.params import Tree
from bertjax.text.batches import Inputs

SIZES = 8
"""The sizes of arrays for each length that batches are padded to."""


@dataclass(frozen=True)
class LayerRange:
    """Depth steps `start` to `stop` (exclusive), on the first `size` rows, which hold all tokens that are left. The
    last ones have the head."""

    model: BertModel
    start: int
    stop: int
    size: int

    @property
    def last(self) -> bool:
        return self.stop == self.model.config.depth


@Forward
def _begin(model: BertModel, params: Tree, ids: Array, mask: Array, types: Array) -> tuple[Array, Array]:
    hidden: Any = model.apply({"params": params}, ids, types, method="embed")
    return hidden, all_tokens(mask > 0).places


@Forward
def _run(model: LayerRange, params: Tree, places: Array, mask: Array, hidden: Array) -> Any:
    return model.model.apply({"params": params}, model, places, mask, hidden, method=run_layers)


def run_layers(
    module: BertModel, layers: LayerRange, places: Int[Array, "b s"], mask: Int[Array, "b l"], hidden: Array
) -> Any:
    """The logits, or if layers follow the places of the tokens that are left, their states and how many the text with
    the most of them has."""
    tokens = Tokens(mask > 0, places[:, : layers.size])
    outputs: Any = module.layers(
        hidden[:, : layers.size], key_mask(tokens.real), start=layers.start, stop=layers.stop, tokens=tokens
    )
    hidden = outputs[-1].hidden
    if layers.last:
        logits: Any = module.finish(hidden, first=outputs[-1].first)[0]
        return logits.astype(jnp.float32)
    places = outputs[-1].tokens.places
    return places, hidden, jnp.max(jnp.sum(places < mask.shape[1], axis=1))


class TokenCountExecutor:
    """Runs a classifier whose retention has thresholds: from (ids, mask, types) to logits [b, classes]."""

    def __init__(self, model: BertModel, params: Tree):
        self.model, self.params = model, jax.device_put(params)
        depth = model.config.depth
        self.cuts = sorted({0, ceil(depth / 3), ceil(2 * depth / 3), depth})
        self.begin = _begin.bound(model, self.params)
        self.programs: dict[LayerRange, Any] = {}

    def __call__(self, batches: Iterable[Inputs]) -> Iterator[np.ndarray]:
        for ids, mask, types in batches:
            hidden, places = self.begin(ids, mask, types)
            length = most = ids.shape[1]
            for start, stop in zip(self.cuts, self.cuts[1:], strict=False):
                size = min(size_for(int(most), length), hidden.shape[1])
                out = self.program(start, stop, size)(places, mask, hidden)
                if stop < self.cuts[-1]:
                    places, hidden, most = out
            yield np.asarray(out)

    def program(self, start: int, stop: int, size: int) -> Any:
        key = LayerRange(self.model, start, stop, size)
        if key not in self.programs:
            self.programs[key] = _run.bound(key, self.params)
        return self.programs[key]


def size_for(tokens: int, length: int) -> int:
    """The smallest size that holds so many tokens of texts that are padded to a length."""
    block = ceil(length / SIZES)
    return min(length, max(1, ceil(tokens / block)) * block)
