"""Texts in, labels out."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Config:
    """Prediction."""

    model: str = "runs/quickstart/bundle"
    """The model: a folder or hf:NAME, with a trained head."""
    input: str = "-"
    """File with one text a line; - is standard input."""
    out: str = "-"
    """File for the predictions; - is standard output."""
    batch_size: int = 32
    max_length: int | None = None
    """Longest input in tokens. Default: what the model can read."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of matrix products. bfloat16 is for TPU, GPU and processors with AMX."""
