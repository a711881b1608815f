"""What is timed for a table of the parts of an encoder layer."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.errors import UserError
from bertjax.recipes.data import Data


@dataclass(frozen=True)
class Config:
    """A table of times."""

    everyday: ClassVar[tuple[str, ...]] = (
        "model",
        "data.eval",
        "out",
        "runtime",
        "threads",
        "sample",
        "repeats",
        "data.max_length",
    )

    model: str = "runs/finetune/bundle"
    """The model whose layers are timed: a folder or hf:NAME."""
    data: Data = field(default_factory=Data)
    runtime: Literal["onnxruntime", "openvino", "jax"] = "onnxruntime"
    """The runtime that will serve the model."""
    threads: int | None = 1
    """Threads of the runtime (Linux). None: all."""
    sample: int = 64
    """Examples of --data.eval to time, one at a time."""
    repeats: int = 7
    """Rounds in which every variant is timed once."""
    out: str = "runs/latency"
    """Folder for latency.json."""

    def __post_init__(self) -> None:
        for name in ("sample", "repeats"):
            if getattr(self, name) < (3 if name == "repeats" else 1):
                raise UserError(f"--{name}={getattr(self, name)}: expected {3 if name == 'repeats' else 1} or more")
