"""Checks of a loaded model: the folder's encoder tensors are all used, and all parameters are finite.

A model with a NaN predicts its first label for every input, and a model without one of its layers makes other
predictions. Both would go unnoticed, so they are errors.
"""

import logging
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from bertjax.errors import UserError
from bertjax.model.config import PREFIXES, BertConfig
from bertjax.model.hf_names import torch_name
from bertjax.params import Tree, flatten
from bertjax.quantized.tensor import Quantized

ENCODER = re.compile(rf"^(({'|'.join(PREFIXES)})\.)?(embeddings|encoder|transformer)\.")
"""Tensor names of the encoder, which affects every prediction."""
OTHER_HEADS = re.compile(
    r"^(cls|predictions|sop_classifier|classifier|pre_classifier|qa_outputs|vocab_\w+|lm_head|projection|fit_dense\w*)\."
    r"|(^|\.)pooler\."
)
"""Tensor names of other tasks' heads, which are normally dropped in fine-tuning: no warning."""
SHOWN = 4
SMALLEST = float(np.nextafter(np.float32(0), np.float32(1)))
"""The smallest float32 above 0."""


def require_use(ignored: Sequence[str], config: BertConfig, where: str) -> None:
    """Rejects a folder with encoder tensors that its config does not describe. Other unused tensors are named once, in
    a warning of the logger `bertjax`.

    Raises:
      UserError: The config describes another encoder than the stored one.
    """
    # `transformers` stores a shared bottleneck for queries and keys even if they read the input bottleneck instead.
    only_input = config.bottleneck and config.bottleneck.attention_input == "input"
    unused = "bottleneck.attention." if only_input else None
    ignored = [name for name in ignored if unused is None or unused not in name]
    if undescribed := [name for name in ignored if ENCODER.search(name)]:
        raise UserError(
            f"{where} holds {len(undescribed)} encoder tensors that its config.json does not describe: "
            f"{shortened(undescribed)}.\nWithout them the model would predict otherwise. Restore config.json (is its "
            "number of layers right?)."
        )
    if unknown := tuple(name for name in ignored if not OTHER_HEADS.search(name)):
        warn_of_unused(unknown, where)


@cache
def warn_of_unused(names: tuple[str, ...], where: str) -> None:
    logging.getLogger("bertjax").warning("%s: unused tensors (%d): %s", where, len(names), shortened(names))


def require_numbers(params: Tree, config: BertConfig, where: str) -> None:
    """Rejects parameters that are not finite.

    Raises:
      UserError: A weight is not finite in float32, or a quantisation scale is not a positive finite number; the first
        is named.
    """
    for path, leaf in flatten(params).items():
        for part, numbers, least in parts_of(leaf):
            # One pass without a copy: the float64 sum of float32 numbers is finite if and only if all of them are.
            with np.errstate(invalid="ignore"):  # inf and -inf
                total = np.sum(numbers, dtype=np.float64)
            if not math.isfinite(total) or (least is not None and (numbers < least).any()):
                wrong = ~np.isfinite(numbers) | (False if least is None else numbers < least)
                index = np.argwhere(wrong)[0]
                expected = "a finite number" if least is None else "a scale above 0"
                raise UserError(
                    f"{where}: {torch_name(path, config)}{part} holds {numbers[tuple(index)]} at {index.tolist()}; "
                    f"expected {expected}, in float32.\nIt would spoil every prediction: download or train the model "
                    "again."
                )


def parts_of(leaf: object) -> Iterator[tuple[str, np.ndarray, float | None]]:
    """The floating-point arrays of a parameter, and the minimum of their values. A ternary scale may be 0, the mean of
    a block of zeros."""
    if not isinstance(leaf, Quantized):
        yield "", np.asarray(leaf), None
        return
    yield ".scale", np.asarray(leaf.scale), 0.0 if leaf.format.scheme == "ternary" else SMALLEST
    if leaf.offset is not None:
        yield ".offset", np.asarray(leaf.offset), None


def shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
