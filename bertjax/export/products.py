"""The products of a model as ONNX nodes: in floating point, or in the integers that it was quantised to.

Floating-point products are MatMul and Add. For an integer product with static ranges, QuantizeLinear and
DequantizeLinear round the input in the bundle's range, before an ordinary MatMul whose weights come from a
DequantizeLinear. ONNX Runtime fuses the four nodes into one integer kernel. For dynamic ranges per token there is no
such pattern, so the arithmetic is written out around MatMulInteger.

Quantised inputs are unsigned, because the instructions of x86 multiply unsigned by signed bytes. Without VNNI, they add
pairs of products in 16 bits: 7-bit weights fit, 8-bit weights overflow. 8-bit weights stored as unsigned bytes around
128 (`--weights=uint8`) are exact there as well, with slower kernels.

Weights without an integer product in ONNX (scales per group of inputs, or with an offset) are multiplied in floating
point. In the file all weights have the bits of the bundle; packed.py says how they are unpacked.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from bertjax.errors import UserError
from bertjax.export.graph import FLOAT, INT32, UINT8, Graph
from bertjax.export.packed import looked_up, spread, whole_matrix
from bertjax.model.config import BertConfig
from bertjax.model.quantized import fixed_scale
from bertjax.params import Tree, flatten
from bertjax.quantized.formats import Activation
from bertjax.quantized.grid import group_of
from bertjax.quantized.tensor import Quantized

Bytes = Literal["int8", "uint8"]


class Products:
    """The parameters of a model, and its products with them. Each method adds nodes and returns the name of their
    result."""

    def __init__(self, config: BertConfig, params: Tree, weights: Bytes):
        self.weights = weights
        self.config, self.params, self.graph = config, flatten(params), Graph()
        self.activations = dict(config.quantization.activations) if config.quantization else {}

    def parameter(self, path: str) -> str:
        """A vector, or a matrix in floating point."""
        leaf, graph, name = self.params[path], self.graph, f"{path}/dequantised"
        if not isinstance(leaf, Quantized):
            array = np.asarray(leaf, np.float32)
            return whole_matrix(graph, path, array) if array.ndim == 2 else graph.constant(path, array)
        with graph.at_load():
            if not graph.has(name):
                values = graph.node("Cast", whole_matrix(graph, path, leaf), to=FLOAT)
                self.scaled(path, leaf, values, lambda shared: spread(graph, shared, leaf.grid.rows, 0), name)
        return name

    def scaled(self, path: str, leaf: Quantized, values: str, of_rows: Callable[[str], str], name: str = "") -> str:
        """`values * scale + offset`; `of_rows` gives the scales or offsets of the rows of `values` from those of all
        groups of rows."""
        graph, columns = self.graph, leaf.grid.columns
        scale = spread(graph, of_rows(graph.constant(f"{path}/scales", leaf.scale)), columns, -1)
        if leaf.offset is None:
            return graph.node("Mul", values, scale, name=name)
        offset = spread(graph, of_rows(graph.constant(f"{path}/offsets", leaf.offset)), columns, -1)
        return graph.node("Add", graph.node("Mul", values, scale), offset, name=name)

    def dense(self, site: str, path: str, x: str) -> str:
        """`x @ kernel + bias` with the parameters below a path, quantised as the config defines for the site."""
        leaf, activation = self.params[f"{path}/kernel"], self.activations.get(site)
        if activation is None or not isinstance(leaf, Quantized) or not has_integer_product(leaf):
            product = self.product(site, x, self.parameter(f"{path}/kernel"))
        elif activation.low is None:
            product = self.token_product(x, activation, f"{path}/kernel", leaf)
        else:
            product = self.graph.node("MatMul", self.rounded(x, activation), self.integers(f"{path}/kernel", leaf))
        return self.graph.node("Add", product, self.parameter(f"{path}/bias"))

    def product(self, site: str, x: str, matrix: str) -> str:
        """`x @ matrix` in floating point; x is rounded if the config says so for the site."""
        return self.graph.node("MatMul", self.rounded(x, self.activations.get(site)), matrix)

    def integers(self, path: str, leaf: Quantized) -> str:
        """A matrix stored as bytes with a scale per output, and the DequantizeLinear node that converts it to
        float32."""
        name = f"{path}/float{self.graph.scope}"
        if not self.graph.has(name):
            values, zero = self.bytes_of(path, leaf)
            scales = self.graph.constant(f"{path}/scale", output_scales(leaf))
            zeros = self.graph.constant(f"{path}/zero", np.full(leaf.shape[1], zero))
            self.graph.node("DequantizeLinear", values, scales, zeros, name=name, axis=1)
        return name

    def bytes_of(self, path: str, leaf: Quantized) -> tuple[str, np.integer]:
        """A matrix of bytes, and its zero point."""
        values, graph, name = whole_matrix(self.graph, path, leaf), self.graph, f"{path}/unsigned"
        if self.weights == "int8" or leaf.format.bits < 8:
            return values, np.int8(0)
        with graph.at_load():
            if not graph.has(name):
                middle = graph.constant("middle", np.int32(128))
                graph.node("Cast", graph.node("Add", graph.node("Cast", values, to=INT32), middle), to=UINT8, name=name)
        return name, np.uint8(128)

    def rounded(self, x: str, activation: Activation | None) -> str:
        """x rounded to the activation's grid, as float32. Inputs that are read several times with the same range share
        the nodes."""
        if activation is None:
            return x
        graph = self.graph
        if activation.low is None:
            scale, integers = self.token_integers(x, activation)
            return graph.node("Mul", graph.node("Sub", graph.node("Cast", integers, to=1), graph.number(128.0)), scale)
        scale, zero = fixed_scale(activation)
        done = f"{x}/rounded/{activation.low}/{activation.high}"
        if not graph.has(done):
            if activation.bits != 8:
                raise UserError(
                    f"activations of {activation.bits} bits with fixed ranges cannot be exported to ONNX; quantise "
                    "them to 8 bits, or use --to stablehlo."
                )
            ends = graph.number(scale), graph.constant(f"zero/{int(zero)}", np.uint8(zero + 128))
            graph.node("DequantizeLinear", graph.node("QuantizeLinear", x, *ends), *ends, name=done)
        return done

    def token_integers(self, x: str, activation: Activation) -> tuple[str, str]:
        """The scale [.., 1] of each token and its integers, as uint8 with zero point 128."""
        graph, highest = self.graph, 2 ** (activation.bits - 1) - 1
        scale = f"{x}/token_scale/{activation.bits}"
        if not graph.has(scale):
            most = graph.node("ReduceMax", graph.node("Abs", x), axes=[-1], keepdims=1)
            tiny = graph.number(float(np.finfo(np.float32).tiny))
            graph.node("Max", graph.node("Div", most, graph.number(float(highest))), tiny, name=scale)
            rounded = graph.node("Add", graph.node("Round", graph.node("Div", x, scale)), graph.number(128.0))
            graph.node("Cast", rounded, to=2, name=f"{x}/token_integers/{activation.bits}")
        return scale, f"{x}/token_integers/{activation.bits}"

    def token_product(self, x: str, activation: Activation, path: str, leaf: Quantized) -> str:
        """An integer product whose input has a scale per token."""
        graph = self.graph
        scale, integers = self.token_integers(x, activation)
        values, zero = self.bytes_of(path, leaf)
        zeros = self.middle(), graph.constant(f"{path}/zero", zero)
        sums = graph.node("Cast", graph.node("MatMulInteger", integers, values, *zeros), to=1)
        return graph.node("Mul", graph.node("Mul", sums, scale), graph.constant(f"{path}/scale", output_scales(leaf)))

    def middle(self) -> str:
        """The zero point of a symmetric range."""
        return self.graph.constant("zero/middle", np.uint8(128))

    def lookup(self, path: str, ids: str) -> str:
        """Rows of an embedding table. Quantised rows are gathered first and dequantised afterwards."""
        leaf, graph = self.params[path], self.graph
        if not isinstance(leaf, Quantized):
            return graph.node("Gather", self.parameter(path), ids)

        def of_rows(shared: str) -> str:
            with graph.at_load():
                shared = spread(graph, shared, leaf.grid.rows, 0)
            return graph.node("Gather", shared, ids) if len(leaf.grid.rows) > 1 else shared

        return self.scaled(path, leaf, graph.node("Cast", looked_up(graph, path, leaf, ids), to=FLOAT), of_rows)

    def by_words(self, x: str) -> str:
        """The product with the transposed word table: logits over the vocabulary."""
        graph, path = self.graph, "embeddings/word/embedding"
        leaf = self.params[path]
        if not isinstance(leaf, Quantized) or not has_row_scales(leaf):
            return self.product("decoder", x, graph.node("Transpose", self.parameter(path), perm=(1, 0)))
        # ONNX Runtime computes a Cast of constants once, and a DequantizeLinear in every call.
        values = graph.node("Cast", whole_matrix(graph, path, leaf), to=FLOAT)
        product = self.product("decoder", x, graph.node("Transpose", values, perm=(1, 0)))
        scales = spread(graph, graph.constant(f"{path}/scales", leaf.scale), leaf.grid.rows, 0)
        scales = graph.node("Reshape", scales, graph.numbers(-1))
        return graph.node("Mul", product, scales)


def has_integer_product(leaf: Quantized) -> bool:
    """Whether a quantised matrix can be multiplied as integers: one scale per output, and no offset."""
    return len(leaf.grid.rows) == 1 and leaf.offset is None


def output_scales(leaf: Quantized) -> np.ndarray:
    """The scale of each output [outputs]."""
    return np.asarray(leaf.scale)[0][group_of(leaf.grid.columns)]


def has_row_scales(leaf: Quantized) -> bool:
    """Whether the scale of a quantised matrix depends on the row alone, and there is no offset."""
    return len(leaf.grid.columns) == 1 and leaf.offset is None
