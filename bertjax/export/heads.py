"""The heads of pre-training as ONNX: masked language model, and pairs of sentences (bertjax/model/heads.py).

The output matrix of a language model is the word table. The file stores the table once, for look-ups, and the product
reads its transpose, which ONNX Runtime computes when it loads the file. A quantised table is stored as integers; the
loaded transpose is in floating point, as the product is in JAX.
"""

from typing import TYPE_CHECKING

from bertjax.export.graph import Axes

if TYPE_CHECKING:
    from bertjax.export.onnx import Writer


def language_model(writer: "Writer", hidden: str) -> dict[str, Axes]:
    """`logits` over the vocabulary for every token."""
    graph, config = writer.graph, writer.config
    x = writer.norm("transform_norm", writer.activation(writer.dense("transform", "transform", hidden)))
    narrow = x
    if config.factorised == "words":
        mapping = graph.node("Transpose", writer.parameter("embeddings/word_mapping/kernel"), perm=(1, 0))
        narrow = writer.product("decoder/word_mapping", x, mapping)
    mobile = config.model_type == "mobilebert"
    if mobile:
        narrow = graph.node("Slice", x, *map(graph.numbers, (0, config.embedding_size, 2)))
    logits = writer.by_words(narrow)
    if mobile and config.embedding_size < config.hidden_size:
        beyond = graph.node("Slice", x, *map(graph.numbers, (config.embedding_size, config.hidden_size, 2)))
        rest = writer.product("decoder_rest", beyond, writer.parameter("decoder_rest"))
        logits = graph.node("Add", logits, rest)
    graph.node("Add", logits, writer.parameter("decoder_bias"), name="logits")
    return {"logits": ("batch", "length", str(config.vocab_size))}


def sentence_pairs(writer: "Writer", first: str, name: str) -> dict[str, Axes]:
    """Two logits, under this name, of whether the second text follows the first."""
    dense = writer.dense("seq_relationship", "seq_relationship", writer.pooled(first))
    writer.graph.node("Squeeze", dense, writer.graph.numbers(1), name=name)
    return {name: ("batch", "2")}
