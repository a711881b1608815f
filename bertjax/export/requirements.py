"""What an ONNX file needs of the runtime that opens it, by feature, as the exported folder says it.

Every file declares one opset, whatever it holds, so a runtime has to know that one. The opset of a feature is the
lowest in which the definitions of its operators are those of the file: it tells where to look if a runtime refuses the
file. The trade-off of a table: it has to be kept in step with the graphs, which a test does.

Files of all features give the same outputs in ONNX Runtime 1.12.0, the first that reads opset 17, as in 1.32. bertjax
itself asks for a newer one (`bertjax.measure.onnx.LOWEST`), because of integer products on processors with AMX.
"""

from typing import Any

from bertjax.export.graph import IR_VERSION, OPSET
from bertjax.measure.onnx import LOWEST
from bertjax.model.config import BertConfig

READS_OPSET = "1.12"
"""The first ONNX Runtime that reads `OPSET`."""
LAYERS, EMBEDDING, EXITS, HALTING, TOKENS, STATIC, PER_TOKEN = (
    *("weights, layers and heads", "sentence embedding", "early exit", "halting", "token dropping"),
    *("integer products, fixed ranges", "integer products, ranges per token"),
)
OPERATORS: dict[str, tuple[str, ...]] = {
    LAYERS: (
        *("Add", "Cast", "Concat", "ConstantOfShape", "CumSum", "Div", "Equal", "Erf", "Gather", "Identity"),
        *("LayerNormalization", "MatMul", "Mul", "Not", "Pad", "Pow", "Relu", "Reshape", "ScatterElements", "Shape"),
        *("Slice", "Softmax", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
    ),
    EMBEDDING: ("Greater", "Max", "ReduceL2", "ReduceMax", "ReduceSum", "Where"),
    EXITS: (
        *("Abs", "And", "ArgMax", "Exp", "Expand", "Greater", "GreaterOrEqual", "If", "Less", "LogSoftmax", "Max"),
        *("Neg", "NonZero", "ReduceMax", "ReduceSum", "ScatterND", "Size", "TopK", "Where"),
    ),
    HALTING: (*("Greater", "Less", "Loop", "Max", "Or", "ReduceMax", "ReduceMin", "ReduceSum", "Sigmoid", "Where"),),
    TOKENS: (
        *("Expand", "GatherND", "Greater", "GreaterOrEqual", "Less", "Max", "Min", "NonZero", "ReduceMax"),
        *("ReduceMean", "ReduceSum", "ScatterND", "TopK", "Where"),
    ),
    STATIC: ("DequantizeLinear", "QuantizeLinear"),
    PER_TOKEN: ("Abs", "MatMulInteger", "Max", "ReduceMax", "Round"),
}
"""The operators that each feature may use, those of `LAYERS` apart."""


def features(config: BertConfig) -> list[str]:
    """The features of a model's file."""
    activations = dict(config.quantization.activations).values() if config.quantization else ()
    present = {
        EMBEDDING: config.embedding is not None,
        EXITS: config.exits is not None and config.exits.exit_rule is not None,
        HALTING: config.recurrence is not None and config.recurrence.halting is not None,
        TOKENS: config.retention is not None,
        STATIC: any(one.low is not None for one in activations),
        PER_TOKEN: any(one.low is None for one in activations),
    }
    return [LAYERS, *(name for name, there in present.items() if there)]


def requirements(config: BertConfig) -> dict[str, Any]:
    """What `config.json` says of the file."""
    from onnx import defs

    exact = ".".join(map(str, LOWEST))
    found = {}
    for feature in features(config):
        opset = max(defs.get_schema(name, OPSET).since_version for name in OPERATORS[feature])
        integers = feature in (STATIC, PER_TOKEN)
        found[feature] = {"opset": opset, "onnxruntime": exact if integers else READS_OPSET}
    lowest = exact if found.keys() & {STATIC, PER_TOKEN} else READS_OPSET
    return {"opset": OPSET, "ir_version": IR_VERSION, "onnxruntime": lowest, "features": found}
