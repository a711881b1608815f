"""A word table of a given size: how narrow it becomes, and how many bits its numbers get.

The word table is half of a small model in floating point and two thirds of one with low bits. Fewer bits keep all
columns and lose digits; a truncated singular value decomposition keeps digits and loses columns (bertjax/share/
factorise.py). Which loses less depends on the size and on the table. So for each format the widest table that fits is
made, and the one with the least squared error is taken, over the tokens of the training text by their frequency. That
is a proxy for the score, in return for not having to train every choice. Fewer words (`bertjax vocabulary`) lose
nothing on that text: prune them first, and the same size holds wider rows.
"""

from typing import NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.model.config import BertConfig
from bertjax.params import Rules, Tree
from bertjax.quantize.weights import Find, integers_of
from bertjax.quantized.formats import TABLE, Format
from bertjax.quantized.grid import grid_of
from bertjax.quantized.packing import packed_size
from bertjax.share.factorise import factorise_words

WORDS, MAPPING = r"^embeddings/word/embedding$", r"^embeddings/word_mapping/kernel$"
FORMATS = (
    TABLE,
    *(
        Format(bits, scheme, block_rows=1, block_cols=None)
        for bits in (4, 3, 2)
        for scheme in ("asymmetric", "symmetric")
    ),
)
"""All of them by row, because rows are looked up."""
MAP = Format()
"""The format of the projection to the encoder's width: it is small, and every word goes through it."""


SAMPLE = 4096
"""The number of tokens, the most frequent ones, on which choices are compared. Rows are rounded each on its own."""


class WordTable(NamedTuple):
    """A choice, the same for equal arguments."""

    width: int
    """Columns of the table; those of the model if it is not factorised."""
    format: Format
    size: int
    """Bytes in a file: integers, scales and offsets, and the projection if there is one."""
    error: float
    """Squared error of the most frequent rows as a share of their squares, both weighted by frequency."""


def fit_word_table(
    config: BertConfig, params: Tree, counts: np.ndarray, most: int, find: Find = "least_squares"
) -> tuple[WordTable, BertConfig, Tree, Rules[Format | None]]:
    """The best table of at most so many bytes; the model with a table of its width, still in floating point; and the
    rules of its formats. `counts` says how often each token occurs [tokens]; each counts once more than that, so that
    tokens of other texts are not forgotten.

    Raises:
      UserError: Not even the smallest table fits.
    """
    rows, columns = params["embeddings"]["word"]["embedding"].shape
    weights, found = counts + 1.0, []
    for format in FORMATS:
        narrowest = columns if config.maps_embeddings else 1
        widths = range(columns, narrowest - 1, -1)
        width = next((one for one in widths if stored_bytes(rows, one, columns, format) <= most), None)
        if width:
            error = weighted_error(config, params, weights, format, width, find)
            found.append(WordTable(width, format, stored_bytes(rows, width, columns, format), error))
    if not found:
        least = min(stored_bytes(rows, columns if config.maps_embeddings else 1, columns, one) for one in FORMATS)
        raise UserError(
            f"a word table of {rows:,} tokens takes at least {least / 1e6:.3g} MB, and {most / 1e6:.3g} MB are asked "
            "for; ask for more, or prune the vocabulary first (bertjax vocabulary)."
        )
    best = min(found, key=lambda one: one.error)
    rules = ((WORDS, best.format),)
    if best.width == columns:
        return best, config, params, rules
    return best, *factorise_words(config, params, best.width, weights), (*rules, (MAPPING, MAP))


def stored_bytes(rows: int, width: int, columns: int, format: Format) -> int:
    """Bytes of a table of this width and, if it is narrower than the encoder, its projection."""
    shared = 4 * rows * (2 if format.scheme == "asymmetric" else 1)
    mapping = packed_size(width * columns, MAP) + 4 * columns if width < columns else 0
    return packed_size(rows * width, format) + shared + mapping


def weighted_error(
    config: BertConfig, params: Tree, weights: np.ndarray, format: Format, width: int, find: Find
) -> float:
    """The error of a choice, see `WordTable`."""
    often = np.argsort(-weights, kind="stable")[:SAMPLE]
    table, weighted = np.asarray(params["embeddings"]["word"]["embedding"])[often], weights[often]
    narrow = width < table.shape[1]
    parts = (factorise_words(config, params, width, weights)[1] if narrow else params)["embeddings"]
    rounded = rounded_matrix(parts["word"]["embedding"][often], format, find)
    if narrow:
        rounded = rounded @ rounded_matrix(parts["word_mapping"]["kernel"], MAP, find)
    squares = weighted @ np.square(table.astype(np.float64)).sum(axis=1)
    return float(weighted @ np.square(table - rounded.astype(np.float64)).sum(axis=1) / squares)


def rounded_matrix(matrix: np.ndarray, format: Format, find: Find) -> np.ndarray:
    """A matrix as its integers give it."""
    grid = grid_of((matrix.shape[0], matrix.shape[1]), format)
    return np.asarray(integers_of("the word table", np.asarray(matrix), format, grid, find).dequantised())
