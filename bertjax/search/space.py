"""What the search chooses among: shapes of a model and forms to store it in, on a coarse grid.

Every layer of a shape keeps as many heads and neurons as every other. Which ones is decided by the error that their
removal makes in the layer's output, and the weights that remain are corrected (`bertjax.prune.second_order`). The
errors alone are a poor guide to how many each layer keeps: on SST-2 a model with half of them in every layer is two
points ahead of one whose layers lose what costs the least error.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertjax.params import Rules, Tree, flatten
from bertjax.prune.criteria import EvenlySpaced
from bertjax.prune.hidden import column_axes, keep_hidden
from bertjax.prune.scores import OWNER, Part
from bertjax.prune.surgery import check_prunable, group_sizes, keep_heads, keep_layers, keep_neurons
from bertjax.quantized.formats import Format

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.model import BertConfig
    from bertjax.prune.second_order import Curves

LAYERS = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1)
HEADS = (1 / 4, 1 / 2, 1)
NEURONS = (1 / 8, 1 / 4, 1 / 2, 1)
HIDDEN = (1 / 2, 3 / 4, 1)
EMBEDDING = (1 / 3, 1)
"""Fractions of the teacher that a shape keeps; that of the word table's columns is of the shape's hidden columns."""


@dataclass(frozen=True, order=True)
class Shape:
    """The sizes of a model. Heads and neurons are those of a layer, at most as many as the teacher's has."""

    layers: int
    heads: int
    neurons: int
    hidden: int
    embedding: int
    """Columns of the word table. Fewer than `hidden`: it is factorised."""

    @property
    def name(self) -> str:
        return f"{self.layers}l-{self.heads}h-{self.neurons}n-{self.hidden}d-{self.embedding}e"


@dataclass(frozen=True, order=True)
class Form:
    """How a shape is stored, which takes no training."""

    fewer_words: bool
    """Whether the word table has the tokens of the training text only."""
    integers: bool
    """Whether weights and activations are 8-bit integers, or what the recipe of the quantisation says."""
    small_table: bool = False
    """Whether the word table has 4 bits, in a form of integers."""

    @property
    def parts(self) -> str:
        """The form as the end of a name."""
        return "-words" * self.fewer_words + "-int8" * self.integers + "-table4" * self.small_table

    def rules(self, recipe: Rules[Format | None]) -> Rules[Format | None]:
        """The formats of its weights, from those of the recipe."""
        return (*((WORDS,) if self.small_table else ()), *recipe) if self.integers else ()


WORDS = r"^embeddings/word/embedding$", Format(4, block_rows=1, block_cols=None)
FORMS = tuple(
    Form(words, integers, table)
    for words in (False, True)
    for integers, table in ((False, False), (True, False), (True, True))
)


def grid(config: BertConfig) -> list[Shape]:
    """All shapes of models that are cut out of a teacher, in order."""
    heads, neurons = map(max, zip(*(step.shape for step in config.depth_steps()), strict=True))
    own = config.embedding_size

    def counts(whole: int, fractions: Sequence[float], multiple: int = 1) -> list[int]:
        rounded = (multiple * max(1, round(fraction * whole / multiple)) for fraction in fractions)
        return sorted({min(whole, count) for count in rounded})

    def of_hidden() -> Iterator[tuple[int, int]]:
        for hidden in counts(config.hidden_size, HIDDEN, 8):
            for words in [own] if config.maps_embeddings else counts(hidden, EMBEDDING, 8):
                yield hidden, words

    steps = len(config.depth_steps())
    products = itertools.product(counts(steps, LAYERS), counts(heads, HEADS), counts(neurons, NEURONS), of_hidden())
    return sorted(Shape(layers, h, n, hidden, words) for layers, h, n, (hidden, words) in products)


def plain(teacher: Bundle) -> Bundle:
    """The teacher as it is cut: without exits and dropped tokens.

    Raises:
      UserError: Parts of it cannot be removed.
    """
    from bertjax.adaptive import remove_exits

    check_prunable(teacher.config, teacher.params)
    config, params = remove_exits(teacher.config, teacher.params)
    return dataclasses.replace(teacher, config=config.replace(retention=None), params=params)


def cut(teacher: Bundle, shape: Shape, curves: Curves | None = None) -> Bundle:
    """The model of a shape with weights of the plain teacher. Without `curves`, the first parts of each layer are kept
    as they are, which is enough to time it."""
    from bertjax.prune.second_order import remove
    from bertjax.share import factorise_words

    config, params = teacher.config, teacher.params
    wanted: dict[Part, int] = {"heads": shape.heads, "neurons": shape.neurons}
    sizes: dict[Part, dict[int, int]] = {
        part: {group: min(count, wanted[part]) for group, count in group_sizes(config, owner).items()}
        for part, owner in OWNER.items()
    }
    if curves is None:
        first = {part: {group: range(count) for group, count in one.items()} for part, one in sizes.items()}
        config, params = keep_neurons(*keep_heads(config, params, first["heads"]), first["neurons"])
    else:
        config, params = remove(config, params, sizes, curves)
    config, params = keep_layers(config, params, kept_layers(teacher, shape.layers))
    if shape.hidden < config.hidden_size:
        config, params = keep_hidden(config, params, largest_columns(params, shape.hidden))
    if shape.embedding < shape.hidden and not config.maps_embeddings:
        config, params = factorise_words(config, params, shape.embedding)
    return dataclasses.replace(teacher, config=config, params=params)


def kept_layers(teacher: Bundle, count: int) -> list[int]:
    """The layers of the teacher that a shape keeps: at even distances, the last among them."""
    return EvenlySpaced().kept_layers(teacher, (), lambda output, batch: (0.0, 0.0), count)


def largest_columns(params: Tree, count: int) -> list[int]:
    """The hidden columns with the largest weights: the sum of squares in every parameter, relative to the mean of that
    parameter's columns."""
    flat, total = flatten(params), np.zeros(())
    for path, axes in column_axes(flat).items():
        for axis in axes:
            squares = np.moveaxis(np.square(np.asarray(flat[path], np.float64)), axis, 0)
            of_columns = squares.reshape(len(squares), -1).sum(axis=1)
            total = total + of_columns / (of_columns.mean() or 1.0)
    return np.sort(np.argsort(-total, kind="stable")[:count]).tolist()


def cut_shapes(teacher: Bundle, shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that `cut` leaves, by their paths in the teacher."""
    config, flat = teacher.config, flatten(teacher.params)
    steps = [config.depth_steps()[number] for number in kept_layers(teacher, shape.layers)]
    groups = {name: {getattr(step, name) for step in steps} for name in ("attention", "ffn")}
    norms = {name: {getattr(step, f"{name}_norm") for step in steps} for name in groups}
    columns, found = column_axes(flat), {}
    for path, leaf in flat.items():
        sizes = list(leaf.shape)
        for axis in columns.get(path, ()):
            sizes[axis] = shape.hidden
        if layer := re.match(r"encoder/layer_(\d+)/(attention|ffn)/(\w+)/", path):
            group, part, name = int(layer[1]), layer[2], layer[3]
            if group not in (norms if name == "layer_norm" else groups)[part]:
                continue
            most = shape.heads * config.head_size if part == "attention" else shape.neurons
            if name != "layer_norm" and not (name == "output" and path.endswith("bias")):
                axis = 0 if name == "output" else -1
                sizes[axis] = min(sizes[axis], most)
        found[path] = tuple(sizes)
    if shape.embedding < shape.hidden and not config.maps_embeddings:
        found["embeddings/word/embedding"] = (config.vocab_size, shape.embedding)
        found["embeddings/word_mapping/kernel"] = (shape.embedding, shape.hidden)
    return found
