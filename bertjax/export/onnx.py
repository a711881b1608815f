"""A bundle as an ONNX model.

Floating-point products are MatMul and Add. For an integer product with static ranges, QuantizeLinear and
DequantizeLinear round the input in the bundle's range, before an ordinary MatMul whose weights come from a
DequantizeLinear. ONNX Runtime fuses the four nodes into one integer kernel. For dynamic ranges per token there is no
such pattern, so the arithmetic is written out around MatMulInteger.

Quantised inputs are unsigned, because the instructions of x86 multiply unsigned by signed bytes. Without VNNI, they add
pairs of products in 16 bits: 7-bit weights fit, 8-bit weights overflow. 8-bit weights stored as unsigned bytes around
128 (`--weights=uint8`) are exact there as well, with slower kernels.

Weights without an integer product in ONNX (scales per group of inputs, or with an offset) are stored in floating point.
"""

from typing import Any, Literal

import numpy as np

from bertjax.errors import UserError
from bertjax.export.graph import Graph
from bertjax.model.config import BertConfig
from bertjax.model.quantized import fixed_scale
from bertjax.params import Tree, flatten
from bertjax.quantized.formats import Activation
from bertjax.quantized.grid import group_of
from bertjax.quantized.tensor import Quantized

HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def require_exportable(config: BertConfig) -> None:
    """Raises if the model cannot be expressed in ONNX here.

    Raises:
      UserError: With the reason and what to do.
    """
    reasons = {
        "its number of recurrence steps depends on the input, and ONNX loops are not supported here": config.recurrence
        is not None,
        "it has exits; export the model without them": config.exits is not None,
        "it drops tokens; export the model without its retention": config.retention is not None,
        "MobileBERT's bottlenecks are not supported here": config.model_type == "mobilebert",
        "its LayerNorm comes before attention and FFN (norm='pre')": config.norm == "pre",
        f"{config.architecture} has a pre-training head": not config.architecture.endswith(HEADS),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(f"this model cannot be exported to ONNX: {reason}. Use --to stablehlo, which supports it.")


Bytes = Literal["int8", "uint8"]


def onnx_model(config: BertConfig, params: Tree, weights: Bytes = "int8") -> Any:
    """The `onnx.ModelProto` of a model, for inputs [batch, length] of any size. `weights` is the type of 8-bit kernels.

    The outputs are `logits` of classifiers, `start_logits` and `end_logits` for question answering, otherwise
    `last_hidden_state` and, if there is a pooler, `pooler_output`.
    """
    require_exportable(config)
    return Writer(config, params, weights).model()


def has_integers(model: Any) -> bool:
    """Whether the `onnx.ModelProto` stores weights as integers."""
    from onnx import TensorProto  # pyright: ignore[reportMissingImports]  (an extra)

    bytes_ = TensorProto.INT8, TensorProto.UINT8
    return any(one.data_type in bytes_ and len(one.dims) > 1 for one in model.graph.initializer)


class Writer:
    """The parts of a BERT. Each method adds nodes and returns the name of their result."""

    def __init__(self, config: BertConfig, params: Tree, weights: Bytes):
        self.weights = weights
        self.config, self.params, self.graph = config, flatten(params), Graph()
        self.activations = dict(config.quantization.activations) if config.quantization else {}
        self.inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if config.type_vocab_size else [])]

    def model(self) -> Any:
        hidden = self.embeddings()
        mask = self.mask()
        steps = self.config.depth_steps()
        alone = self.config.architecture.endswith("ForSequenceClassification")
        for number, step in enumerate(steps):
            hidden = self.layer(number, step, hidden, mask, first=alone and number == len(steps) - 1)
        return self.graph.model(self.inputs, self.head(hidden), self.config.architecture)

    def parameter(self, path: str) -> str:
        """A vector, or a matrix in floating point."""
        leaf = self.params[path]
        array = leaf.dequantised() if isinstance(leaf, Quantized) else leaf
        return self.graph.constant(path, np.asarray(array, np.float32))

    # --- products ----------------------------------------------------------------------------------------------------

    def dense(self, site: str, path: str, x: str) -> str:
        """`x @ kernel + bias` with the parameters below a path, quantised as the config defines for the site."""
        leaf, activation = self.params[f"{path}/kernel"], self.activations.get(site)
        if activation is None or not isinstance(leaf, Quantized) or not has_integer_product(leaf):
            product = self.graph.node("MatMul", self.rounded(x, activation), self.parameter(f"{path}/kernel"))
        elif activation.low is None:
            product = self.token_product(x, activation, f"{path}/kernel", leaf)
        else:
            product = self.graph.node("MatMul", self.rounded(x, activation), self.integers(f"{path}/kernel", leaf))
        return self.graph.node("Add", product, self.parameter(f"{path}/bias"))

    def integers(self, path: str, leaf: Quantized) -> str:
        """A matrix stored as bytes with a scale per output, and the DequantizeLinear node that converts it to
        float32."""
        if f"{path}/integers" not in self.graph.constants:
            values, zero = self.bytes_of(path, leaf)
            scales = self.graph.constant(f"{path}/scale", output_scales(leaf))
            zeros = self.graph.constant(f"{path}/zero", np.full(leaf.shape[1], zero))
            self.graph.node("DequantizeLinear", values, scales, zeros, name=f"{path}/float", axis=1)
        return f"{path}/float"

    def bytes_of(self, path: str, leaf: Quantized) -> tuple[str, np.integer]:
        """A matrix of bytes, and its zero point."""
        values = np.asarray(leaf.values)
        if self.weights == "int8" or leaf.format.bits < 8:
            return self.graph.constant(f"{path}/integers", values), np.int8(0)
        return self.graph.constant(f"{path}/integers", (values.astype(np.int16) + 128).astype(np.uint8)), np.uint8(128)

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
        if not any(node.output[0] == done for node in graph.nodes):
            if activation.bits != 8:
                raise UserError(
                    f"activations of {activation.bits} bits cannot be exported to ONNX; quantise them to 8 bits."
                )
            ends = graph.number(scale), graph.constant(f"zero/{int(zero)}", np.uint8(zero + 128))
            graph.node("DequantizeLinear", graph.node("QuantizeLinear", x, *ends), *ends, name=done)
        return done

    def token_integers(self, x: str, activation: Activation) -> tuple[str, str]:
        """The scale [.., 1] of each token and its integers, as uint8 with zero point 128."""
        graph, highest = self.graph, 2 ** (activation.bits - 1) - 1
        scale = f"{x}/token_scale/{activation.bits}"
        if not any(node.output[0] == scale for node in graph.nodes):
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
        if not isinstance(leaf, Quantized) or len(leaf.grid.columns) > 1 or leaf.offset is not None:
            return graph.node("Gather", self.parameter(path), ids)
        values = graph.node("Gather", graph.constant(f"{path}/integers", np.asarray(leaf.values)), ids)
        scales = np.asarray(leaf.scale)[group_of(leaf.grid.rows)]
        return graph.node(
            "Mul", graph.node("Cast", values, to=1), graph.node("Gather", graph.constant(f"{path}/scale", scales), ids)
        )

    # --- parts -------------------------------------------------------------------------------------------------------

    def norm(self, path: str, x: str, name: str = "") -> str:
        scale, bias = self.parameter(f"{path}/scale"), self.parameter(f"{path}/bias")
        return self.graph.node(
            "LayerNormalization", x, scale, bias, name=name, axis=-1, epsilon=self.config.layer_norm_eps
        )

    def embeddings(self) -> str:
        graph, config = self.graph, self.config
        words = self.lookup("embeddings/word/embedding", "input_ids")
        if config.factorised == "words":
            words = graph.node("MatMul", words, self.parameter("embeddings/word_mapping/kernel"))
        length = graph.node("Slice", graph.node("Shape", "input_ids"), graph.numbers(1), graph.numbers(2))
        every = graph.constant("positions", np.arange(config.max_position_embeddings, dtype=np.int64)[None])
        columns = graph.node("Slice", every, graph.numbers(0), length, graph.numbers(1))
        total = words
        if config.type_vocab_size:
            total = graph.node("Add", total, self.lookup("embeddings/token_type/embedding", "token_type_ids"))
        total = graph.node("Add", total, self.lookup("embeddings/position/embedding", columns))
        normed = self.norm("embeddings/layer_norm", total)
        maps = config.maps_embeddings and config.factorised != "words"
        return self.dense("embeddings/mapping", "embeddings/mapping", normed) if maps else normed

    def mask(self) -> str:
        """The additive attention mask [batch, 1, 1, length]: 0 at real tokens, the lowest float32 elsewhere."""
        graph = self.graph
        wide = graph.node("Unsqueeze", graph.node("Unsqueeze", "attention_mask", graph.numbers(1)), graph.numbers(2))
        missing = graph.node("Sub", graph.number(1.0), graph.node("Cast", wide, to=1))
        return graph.node("Mul", missing, graph.number(float(np.finfo(np.float32).min)))

    def layer(self, number: int, step: Any, hidden: str, mask: str, first: bool) -> str:
        """One depth step. With `first`, only the [CLS] row is computed, because nothing reads the others."""
        graph, stack = self.graph, "encoder/layer_"
        attention, ffn = f"{stack}{step.attention}/attention", f"{stack}{step.ffn}/ffn"
        query_rows = graph.node("Slice", hidden, *map(graph.numbers, (0, 1, 1))) if first else hidden
        heads = step.num_attention_heads
        attended = self.attention(f"step_{number}/attention", attention, heads, query_rows, hidden, mask)
        hidden = query_rows
        norm = f"{stack}{step.attention_norm}/attention/layer_norm"
        hidden = self.norm(norm, graph.node("Add", attended, hidden))
        total = graph.node("Add", self.feed_forward(f"step_{number}/ffn", ffn, step.intermediate_size, hidden), hidden)
        return self.norm(f"{stack}{step.ffn_norm}/ffn/layer_norm", total, name=f"step_{number}/hidden")

    def attention(self, site: str, path: str, heads: int, query_rows: str, hidden: str, mask: str) -> str:
        """Attention from the rows in `query_rows` to all rows in `hidden`."""
        graph, width = self.graph, self.config.head_size
        if not heads:
            return self.parameter(f"{path}/output/bias")

        def split(part: str, x: str, order: tuple[int, ...]) -> str:
            flat = self.dense(f"{site}/{part}", f"{path}/{part}", x)
            by_head = graph.node("Reshape", flat, graph.numbers(0, 0, heads, width))
            return graph.node("Transpose", by_head, perm=order)

        queries, keys = split("query", query_rows, (0, 2, 1, 3)), split("key", hidden, (0, 2, 3, 1))
        values = split("value", hidden, (0, 2, 1, 3))
        scores = graph.node("Div", graph.node("MatMul", queries, keys), graph.number(float(np.sqrt(width))))
        probabilities = graph.node("Softmax", graph.node("Add", scores, mask), axis=-1)
        context = graph.node("Transpose", graph.node("MatMul", probabilities, values), perm=(0, 2, 1, 3))
        joined = graph.node("Reshape", context, graph.numbers(0, 0, heads * width))
        return self.dense(f"{site}/output", f"{path}/output", joined)

    def feed_forward(self, site: str, path: str, neurons: int, hidden: str) -> str:
        """The update of the feed-forward sublayer; without neurons, its output bias alone."""
        if not neurons:
            return self.parameter(f"{path}/output/bias")
        inner = self.dense(f"{site}/intermediate", f"{path}/intermediate", hidden)
        return self.dense(f"{site}/output", f"{path}/output", self.activation(inner))

    def activation(self, x: str) -> str:
        graph = self.graph
        if self.config.hidden_act == "relu":
            return graph.node("Relu", x)
        if self.config.hidden_act == "gelu_new":
            cubed = graph.node("Mul", graph.number(0.044715), graph.node("Pow", x, graph.number(3.0)))
            inner = graph.node("Mul", graph.number(float(np.sqrt(2 / np.pi))), graph.node("Add", x, cubed))
            half = graph.node("Mul", graph.number(0.5), x)
            return graph.node("Mul", half, graph.node("Add", graph.number(1.0), graph.node("Tanh", inner)))
        error = graph.node("Erf", graph.node("Div", x, graph.number(float(np.sqrt(2)))))
        return graph.node("Mul", graph.node("Mul", x, graph.node("Add", error, graph.number(1.0))), graph.number(0.5))

    def head(self, hidden: str) -> dict[str, tuple[str, ...]]:
        """Adds the head; returns the names of the outputs with their axes."""
        graph, config = self.graph, self.config
        kind = config.architecture
        if kind.endswith("ForTokenClassification"):
            self.named("logits", self.dense("classifier", "classifier", hidden))
            return {"logits": ("batch", "length", str(len(config.labels)))}
        if kind.endswith("ForQuestionAnswering"):
            both = self.dense("qa_outputs", "qa_outputs", hidden)
            for index, name in enumerate(("start_logits", "end_logits")):
                graph.node("Gather", both, graph.constant(f"index/{index}", np.int64(index)), name=name, axis=2)
            return dict.fromkeys(("start_logits", "end_logits"), ("batch", "length"))
        # ONNX Runtime turns products of 2-D inputs into Gemm, which has no integer kernel, so three axes are kept to
        # the end.
        first = graph.node("Slice", hidden, *map(graph.numbers, (0, 1, 1)))
        distilled, width = config.model_type == "distilbert", str(config.hidden_size)
        if kind.endswith("Model"):
            self.named("last_hidden_state", hidden)
            outputs: dict[str, tuple[str, ...]] = {"last_hidden_state": ("batch", "length", width)}
            if not distilled:
                pooled = graph.node("Tanh", self.dense("pooler", "pooler", first))
                graph.node("Squeeze", pooled, graph.numbers(1), name="pooler_output")
                outputs["pooler_output"] = ("batch", width)
            return outputs
        if distilled:
            pooled = graph.node("Relu", self.dense("pre_classifier", "pre_classifier", first))
        else:
            pooled = graph.node("Tanh", self.dense("pooler", "pooler", first))
        if config.classifier_activation:
            pooled = graph.node("Relu", pooled)
        graph.node("Squeeze", self.dense("classifier", "classifier", pooled), graph.numbers(1), name="logits")
        return {"logits": ("batch", str(len(config.labels)))}

    def named(self, name: str, x: str) -> None:
        self.graph.node("Identity", x, name=name)


def has_integer_product(leaf: Quantized) -> bool:
    """Whether a quantised matrix can be multiplied as integers: one scale per output, and no offset."""
    return len(leaf.grid.rows) == 1 and leaf.offset is None


def output_scales(leaf: Quantized) -> np.ndarray:
    """The scale of each output [outputs]."""
    return np.asarray(leaf.scale)[0][group_of(leaf.grid.columns)]
