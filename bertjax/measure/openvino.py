"""An ONNX file in OpenVINO, behind the methods of an ONNX Runtime session that this package calls.

OpenVINO compiles a file for this processor when it is opened, which takes longer than in ONNX Runtime. By default it
changes the function to gain time: products in bfloat16 where the processor has them, and inputs rounded to 8 bits where
only the weights are integers. Both are turned off, so that a file is the same function in both runtimes. It does merge
QuantizeLinear and DequantizeLinear into products of integers, whose sums are those of ONNX Runtime; results may differ
by a value that lies half-way between two integers and is rounded to the other one. The threshold of a model that exits
early is a constant here, and no input as in ONNX Runtime.
"""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from bertjax.errors import UserError

INSTALL = 'openvino is not installed; it comes with pip install "bertjax[openvino]".'
SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
"""One call at a time, computed in the dtypes of the file."""
PRODUCTS = ("FullyConnected", "MatMul")
"""Types of OpenVINO's executed layers that multiply matrices."""


class Named(NamedTuple):
    """An input or output."""

    name: str


class OpenVinoSession:
    """A compiled model with the methods of `onnxruntime.InferenceSession`. `model` is a path or a serialised model."""

    def __init__(self, model: str | bytes, threads: int = 1):
        core = package().Core()
        self._model = core.compile_model(core.read_model(model), "CPU", SETTINGS | {"INFERENCE_NUM_THREADS": threads})
        self._request = self._model.create_infer_request()
        self._inputs = [Named(one.any_name) for one in self._model.inputs]
        # Of a tensor with several names, that of the file's output.
        names = [one.node.friendly_name.rpartition("/sink_port_")[0] for one in self._model.outputs]
        self._places = {name: place for place, name in enumerate(names)}
        self._outputs = [Named(name) for name in names]

    def get_inputs(self) -> list[Named]:
        return self._inputs

    def get_outputs(self) -> list[Named]:
        return self._outputs

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs with these names, or all."""
        found = self._request.infer(dict(inputs), share_inputs=True)
        return [np.asarray(found[self._places[name]]) for name in names or self._places]

    def executed(self) -> Mapping[str, int]:
        """The number of executed layers by type; products are counted as "MatMulInteger" and "MatMul"."""
        return Counter(_kind(one.get_rt_info()) for one in self._model.get_runtime_model().get_ops())


def _kind(about: Any) -> str:
    kind, precision = about["layerType"].astype(str), about["runtimePrecision"].astype(str)
    if kind not in PRODUCTS:
        return kind
    return "MatMulInteger" if precision in ("i8", "u8") else "MatMul"


def package() -> Any:
    """The package openvino, without the one by which it reports to its makers, over the network and from a forked
    process, that it was imported. It does without where that is not installed.

    Raises:
      UserError: It is missing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  (None: not to be imported)
    try:
        return import_module("openvino")
    except ImportError:
        raise UserError(INSTALL) from None


def reason(error: Exception) -> str:
    """Why OpenVINO cannot read a file: the operators that it does not know, or the last line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unknown = re.search(r"operations: (.*)", str(error))
    if unknown:
        return f"it does not know the operators {unknown[1].strip()}"
    return next((line for line in lines if line.startswith("Unable")), lines[-1] if lines else type(error).__name__)
