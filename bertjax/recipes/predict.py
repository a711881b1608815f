"""Texts in, labels out."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Config:
    """Prediction."""

    model: str = "runs/quickstart/bundle"
    """The model: a folder or hf:NAME, with a trained head."""
    input: str = "-"
    """File with one text a line; - reads standard input."""
    out: str = "-"
    """File for the answers; - writes to standard output."""
    batch_size: int = 32
    max_length: int | None = None
    """Longest input in tokens. None: what the model can hold."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the products: bfloat16 on TPU, GPU and processors with AMX."""
