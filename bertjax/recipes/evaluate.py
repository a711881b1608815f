"""Models to be measured side by side."""

from dataclasses import dataclass, field
from typing import ClassVar

from bertjax.measure.runtimes import FileRuntimes
from bertjax.recipes.data import EVERYDAY, Data


@dataclass(frozen=True)
class Config:
    """Evaluation."""

    everyday: ClassVar[tuple[str, ...]] = (
        *EVERYDAY,
        "against",
        "bfloat16",
        "data.text",
        "data.label",
        "data.max_length",
    )

    model: str = "runs/quickstart/stages/1-teacher/bundle"
    """The baseline: a folder or hf:NAME, with a trained head."""
    against: tuple[str, ...] = ()
    """More models to compare: folders, hf:NAME, or exported folders."""
    data: Data = field(default_factory=Data)
    out: str = "runs/evaluate"
    """Folder for the report."""
    bfloat16: bool = False
    """Measure each bundle a second time with matrix products in bfloat16, which TPUs, GPUs and processors with AMX do
    several times as fast."""
    runtime: FileRuntimes = "onnxruntime"
    """The runtime of exported folders. auto: for each, the faster of both on this machine."""
