"""Whether a runtime multiplies a file's integers exactly on this processor.

A file can be correct and its products wrong. Processors without VNNI add products of bytes in pairs, in 16 bits, which
overflow for two weights above 64; and a kernel can have a bug for some shapes. No list of processors and versions
covers all cases. So each matrix is multiplied on its own, by the largest inputs and by random ones, and compared with
exact sums: in ONNX Runtime as a `MatMulInteger`; in OpenVINO, which has integer kernels for no other pattern, between
DequantizeLinear nodes with scales of 1.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from bertjax.measure.onnx import existing_file, graphs, new_session, unpacked
from bertjax.measure.openvino import OpenVinoSession
from bertjax.measure.runtimes import FileRuntime

ROWS = 65
"""Kernels process up to 32 rows at a time, and the remaining rows with other kernels."""

MIDDLE = {"uint8": 128}
"""The zero point of a matrix by its dtype, 0 if it has none."""
ROUNDING = 1e-5
"""Share of the largest sum below which a difference is that of sums in float32; a saturated sum is off by far more."""


class Operand(NamedTuple):
    """A quantised matrix [inputs, outputs] that a file multiplies by, and the dtype of its inputs."""

    name: str
    values: np.ndarray
    inputs: np.dtype
    """uint8 or int8."""


def inexact_products(folder: str | os.PathLike, runtime: FileRuntime = "onnxruntime") -> tuple[str, ...]:
    """The names of the matrices whose products the runtime computes wrongly on this processor."""
    return tuple(one.name for one in operands(folder) if not is_exact(one, runtime))


def operands(folder: str | os.PathLike) -> Iterator[Operand]:
    """The matrices that a file multiplies by as integers, each once.

    Two patterns are known: `MatMulInteger`, and a `MatMul` or `Gemm` of two `DequantizeLinear`, which ONNX Runtime
    fuses into one integer product.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(existing_file(folder)).graph
    nodes = [node for one in graphs(graph) for node in one.node]
    made_by = {name: node for node in nodes for name in node.output}
    zeros = {name: zero for name, zero in (_sides(node, made_by) for node in nodes) if name}
    stored = {one.name: one for one in graph.initializer}
    arrays = {name: numpy_helper.to_array(stored[name]) for name in zeros if name in stored} | unpacked(graph, zeros)
    for name, array in arrays.items():
        if array.dtype.itemsize == 1 and array.ndim == 2:
            zero = stored.get(zeros[name])
            signed = zero is not None and numpy_helper.to_array(zero).dtype == np.int8
            yield Operand(name, array, np.dtype(np.int8 if signed else np.uint8))


def _sides(node: Any, made_by: Mapping[str, Any]) -> tuple[str, str]:
    """The name of the matrix of an integer product, and of the zero point of its inputs; empty if there is none."""
    if node.op_type == "MatMulInteger":
        return node.input[1], node.input[2] if len(node.input) > 2 else ""
    if node.op_type in ("MatMul", "Gemm"):
        left, right = (made_by.get(name) for name in node.input[:2])
        if left and right and left.op_type == right.op_type == "DequantizeLinear":
            return right.input[0], left.input[2] if len(left.input) > 2 else ""
    return "", ""


def is_exact(operand: Operand, runtime: FileRuntime = "onnxruntime") -> bool:
    """Whether every sum equals the exact integer result; in OpenVINO, within the rounding of float32."""
    ends = np.iinfo(operand.inputs)
    rng = np.random.default_rng(0)
    left = rng.integers(ends.min, ends.max + 1, (ROWS, len(operand.values))).astype(operand.inputs)
    left[0], left[1] = ends.max, ends.min
    # Integers below 2^53, which float64 sums exactly.
    exact = left.astype(np.float64) @ operand.values.astype(np.float64)
    if runtime == "openvino":
        exact -= MIDDLE.get(operand.values.dtype.name, 0) * left.sum(axis=1, keepdims=True, dtype=np.float64)
        (sums,) = OpenVinoSession(_dequantised_product(operand)).run(None, {"left": left.astype(np.float32)})
        return bool(np.abs(sums - exact).max() <= ROUNDING * np.abs(exact).max())
    (sums,) = new_session(_product(operand)).run(None, {"left": left})
    return bool(np.array_equal(sums, exact))


def _product(operand: Operand) -> bytes:
    """A model with one `MatMulInteger`."""
    from onnx import helper

    product = helper.make_node("MatMulInteger", ["left", "right"], ["sums"])
    return _model([product], operand, (operand.inputs, np.dtype(np.int32)), {})


def _dequantised_product(operand: Operand) -> bytes:
    """A model with the product of two `DequantizeLinear`, whose scales are 1."""
    from onnx import helper

    nodes = [
        helper.make_node("QuantizeLinear", ["left", "one", "zero"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "one", "zero"], ["floats"]),
        helper.make_node("DequantizeLinear", ["right", "ones", "middle"], ["matrix"], axis=1),
        helper.make_node("MatMul", ["floats", "matrix"], ["sums"]),
    ]
    columns, kind = operand.values.shape[1], operand.values.dtype
    constants: dict[str, Any] = {"one": np.float32(1), "zero": operand.inputs.type(0)}
    constants |= {"ones": np.ones(columns, np.float32), "middle": np.full(columns, MIDDLE.get(kind.name, 0), kind)}
    return _model(nodes, operand, (np.dtype(np.float32), np.dtype(np.float32)), constants)


def _model(nodes: list[Any], operand: Operand, kinds: tuple[np.dtype, np.dtype], constants: Mapping[str, Any]) -> bytes:
    """A model from `left` to `sums`, of these dtypes, that multiplies by the operand as `right`."""
    from onnx import helper, numpy_helper

    given, made = (helper.np_dtype_to_tensor_dtype(kind) for kind in kinds)
    inputs, outputs = operand.values.shape
    stored = {"right": np.ascontiguousarray(operand.values), **constants}
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("left", given, ["rows", inputs])],
        [helper.make_tensor_value_info("sums", made, ["rows", outputs])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
