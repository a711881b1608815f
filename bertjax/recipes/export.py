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
    """Name of the result in the report."""
    weights: Literal["int8", "uint8"] = "int8"
    """Type of 8-bit kernels in the file. int8 is exact only on processors with VNNI, AMX or Arm's dot product; uint8 is
    exact everywhere and slower. Kernels of 7 bits, the default of quantisation, are int8 and exact everywhere."""
