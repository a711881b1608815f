"""MobileBERT's own parts as ONNX: trigrams of embeddings, and layers between bottlenecks (bertjax/model/bottleneck.py).

Products, norms and attention are those of the `writer`, a `bertjax.export.onnx.Writer`; here they are put together in
another way. In JAX the last layer of such a model computes every row. A file whose head reads the first row computes no
other there.
"""

from typing import TYPE_CHECKING, Any

from bertjax.export.tokens import Rows
from bertjax.model.bottleneck import bottleneck_of

if TYPE_CHECKING:
    from bertjax.export.onnx import Writer


def trigrams(writer: "Writer", words: str) -> str:
    """The word embeddings of the next, the same and the previous column side by side, zeros beyond both ends."""
    graph = writer.graph
    padded = graph.node("Pad", words, graph.numbers(0, 1, 0, 0, 1, 0))
    end = graph.numbers(2**31 - 1)
    following = graph.node("Slice", padded, graph.numbers(2), end, graph.numbers(1))
    preceding = graph.node("Slice", padded, graph.numbers(0), graph.numbers(-2), graph.numbers(1))
    return graph.node("Concat", following, words, preceding, axis=-1)


def bottleneck_layer(writer: "Writer", number: int, step: Any, rows: Rows, first: bool, name: str) -> str:
    """The state after one depth step, under `name`. With `first`, it has only the [CLS] row."""
    graph, config, options = writer.graph, writer.config, bottleneck_of(writer.config)
    site, group = f"step_{number}", f"encoder/layer_{step.attention}"

    def read(x: str) -> str:
        return writer.first(x) if first else x

    def added(update: str, x: str, norm: str, name: str = "", epsilon: float = 0.0) -> str:
        return writer.norm(f"{group}/{norm}/layer_norm", graph.node("Add", update, x), name, epsilon)

    residual, keys_of, values_of = inputs(writer, site, group, rows.hidden)
    attention, heads = (f"{site}/attention", f"{group}/attention"), step.num_attention_heads
    update, _ = writer.attention(*attention, heads, read(keys_of), rows._replace(hidden=keys_of), values_of)
    after = added(update, read(residual), "attention")
    for part in range(options.num_feedforward_networks - 1):
        update = writer.feed_forward(f"{site}/ffn_{part}", f"{group}/ffn_{part}", step.intermediate_size, after)
        after = added(update, after, f"ffn_{part}")
    update = writer.feed_forward(f"{site}/ffn", f"{group}/ffn", step.intermediate_size, after)
    if not config.bottleneck_size:
        return added(update, after, "ffn", name, options.main_norm_eps)
    after = added(update, after, "ffn", epsilon=options.main_norm_eps)
    wide = writer.dense(f"{site}/output_bottleneck", f"{group}/output_bottleneck/dense", after)
    return added(wide, read(rows.hidden), "output_bottleneck", name)


def inputs(writer: "Writer", site: str, group: str, hidden: str) -> tuple[str, str, str]:
    """The inputs of attention: for the residual sum, for queries and keys, and for values."""

    def narrow(part: str) -> str:
        dense = writer.dense(f"{site}/{part}", f"{group}/{part}/dense", hidden)
        return writer.norm(f"{group}/{part}/layer_norm", dense)

    if not writer.config.bottleneck_size:
        return hidden, hidden, hidden
    residual, kind = narrow("input_bottleneck"), bottleneck_of(writer.config).attention_input
    if kind == "input":
        return residual, residual, residual
    return residual, hidden if kind == "block" else narrow("shared_bottleneck"), hidden
