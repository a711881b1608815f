"""A model as an ONNX file, as a stage."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bertjax.recipes.stage import Stage


@dataclass(frozen=True)
class Export(Stage):
    """An export as a stage of `compress`."""

    job: ClassVar[str] = "bertjax.jobs.export"
    exports: ClassVar[bool] = True

    name: str = "onnx"
    """What the result is called in the report."""
    weights: Literal["int8", "uint8"] = "int8"
    """Of kernels of 8 bits. int8 is exact on processors with VNNI, AMX or the dot product of Arm, uint8 on all, and
    slower. Kernels of 7 bits, the default of quantisation, are int8 and exact on all."""
