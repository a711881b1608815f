"""An ONNX graph, built node by node.

Values are identified by names. A constant is stored once per name, so parameters that layers share occur in the file
only once.
"""

from typing import Any

import numpy as np

OPSET = 17  # the first with LayerNormalization; nothing used here needs a later one


class Graph:
    """Nodes and constants in the order in which they were added."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._count = 0

    def constant(self, name: str, array: Any) -> str:
        """The name of a constant; if the name is already in use, the first array is kept."""
        if name not in self.constants:
            self.constants[name] = np.array(array, order="C")
        return name

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(f"number/{value!r}", np.float32(value))

    def numbers(self, *values: int) -> str:
        """A vector of int64: axes, shapes."""
        return self.constant(f"numbers/{'_'.join(map(str, values))}", np.array(values, np.int64))

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """The name of the first output of a new node."""
        from onnx import helper

        self._count += 1
        output = name or f"{kind}_{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def pair(self, kind: str, *inputs: str, **attributes: Any) -> tuple[str, str]:
        """The names of the two outputs of a new node."""
        from onnx import helper

        self._count += 1
        outputs = f"{kind}_{self._count}", f"{kind}_{self._count}/second"
        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], **attributes))
        return outputs

    def size(self, x: str, axis: int) -> str:
        """The size of an axis, as a vector with one number."""
        return self.node("Slice", self.node("Shape", x), self.numbers(axis), self.numbers(axis + 1))

    def columns(self, name: str, array: Any, size: str) -> str:
        """The first columns [1, size] of a constant vector."""
        whole = self.constant(name, np.asarray(array)[None])
        return self.node("Slice", whole, self.numbers(0), size, self.numbers(1))

    def model(self, inputs: list[str], outputs: dict[str, tuple[str, ...]], title: str) -> Any:
        """The finished model, with int64 inputs [batch, length] and float32 outputs with the given axes, checked by
        ONNX."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        from bertjax import __version__

        of = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            title,
            [of(name, TensorProto.INT64, ["batch", "length"]) for name in inputs],
            [of(n, TensorProto.FLOAT, [int(a) if a.isdigit() else a for a in s]) for n, s in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=8, producer_name="bertjax", producer_version=__version__
        )
        onnx.checker.check_model(model, full_check=True)
        return model
