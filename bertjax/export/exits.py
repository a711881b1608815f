"""When a text exits, as ONNX nodes: the rules of `bertjax.adaptive.policies`.

After an exit the rest of the model lies in the branch of an `If`, for the texts that stay (onnx.py). No runtime enters
the branch when nobody stays. The threshold is an input of the file with a default, so one file serves any trade-off.

The price: between two exits texts are gathered, which copies their states, and no runtime optimises across the edge of
a branch.
"""

from typing import NamedTuple

import numpy as np

from bertjax.export.graph import Graph
from bertjax.model.depth import ExitRule

THRESHOLD = "threshold"
"""The input of the file that holds the threshold of its rule; a scalar that may be left out."""


class Memory(NamedTuple):
    """The names of what patience remembers of each text [texts]."""

    agreed: str
    """The number of predictions in a row that agreed with the one before."""
    prediction: str


def decided(
    graph: Graph, rule: ExitRule, classes: int, logits: str, memory: Memory | None
) -> tuple[str, Memory | None]:
    """Whether each text exits with these logits [texts, classes], and what is remembered of the others."""
    threshold = graph.setting(THRESHOLD, rule.threshold)
    if rule.rule == "patience":
        memory = agreement(graph, rule.tolerance, classes, logits, memory)
        return graph.node("GreaterOrEqual", memory.agreed, threshold), memory
    if rule.rule in ("entropy", "normalised_entropy"):
        # A probability of 0 has a logarithm of -inf and counts 0: exp(-1000) is 0, and so is its product with -1000.
        logs = graph.node("Max", graph.node("LogSoftmax", logits, axis=-1), graph.number(-1000.0))
        parts = graph.node("Mul", graph.node("Exp", logs), logs)
        entropy = graph.node("Neg", graph.node("ReduceSum", parts, graph.numbers(-1), keepdims=0))
        if rule.rule == "normalised_entropy":
            entropy = graph.node("Div", entropy, graph.number(float(np.log(np.float32(classes)))))
        return graph.node("Less", entropy, threshold), None
    probabilities = graph.node("Softmax", logits, axis=-1)
    if rule.rule == "max_probability":
        sure = graph.node("ReduceMax", probabilities, axes=[-1], keepdims=0)
    else:
        two, _ = graph.pair("TopK", probabilities, graph.numbers(2))
        best, second = (graph.node("Slice", two, *map(graph.numbers, (n, n + 1, 1))) for n in (0, 1))
        sure = graph.node("Squeeze", graph.node("Sub", best, second), graph.numbers(1))
    return graph.node("Greater", sure, threshold), None


def agreement(graph: Graph, tolerance: float, classes: int, logits: str, memory: Memory | None) -> Memory:
    """The memory of patience after one more prediction."""
    if classes == 1:
        prediction = graph.node("Squeeze", logits, graph.numbers(1))
    else:
        prediction = graph.node("ArgMax", logits, axis=-1, keepdims=0)
    if memory is None:  # the first exit has no prediction before it
        texts = graph.node("Shape", prediction)
        return Memory(graph.node("Expand", graph.number(0.0), texts), prediction)
    if classes == 1:
        distance = graph.node("Abs", graph.node("Sub", prediction, memory.prediction))
        same = graph.node("Less", distance, graph.number(tolerance))
    else:
        same = graph.node("Equal", prediction, memory.prediction)
    more = graph.node("Add", memory.agreed, graph.number(1.0))
    return Memory(graph.node("Where", same, more, graph.number(0.0)), prediction)
