"""The heads of pre-training and of sentence embeddings as ONNX (bertjax/model/heads.py).

The output matrix of a language model is the word table. The file stores the table once, for look-ups, and the product
reads its transpose, which ONNX Runtime computes when it loads the file. A quantised table is stored as integers; the
loaded transpose is in floating point, as the product is in JAX.
"""

from typing import TYPE_CHECKING

import numpy as np

from bertjax.export.graph import Axes
from bertjax.export.tokens import Rows

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


def sentence_embedding(writer: "Writer", hidden: str) -> dict[str, Axes]:
    """`sentence_embedding`, pooled and scaled in the file; and the states of all tokens, `last_hidden_state`, for
    clients that pool them by the folder's `1_Pooling`, as text-embeddings-inference does."""
    graph, config, embedding = writer.graph, writer.config, writer.config.embedding
    assert embedding is not None
    writer.named("last_hidden_state", hidden)
    real = graph.node("Greater", "attention_mask", graph.numbers(0))
    if embedding.pooling == "cls":
        x = writer.first(hidden)
    elif embedding.pooling == "mean":
        x = writer.mean(Rows(hidden, "", real))
    else:
        lowest = graph.number(float(np.finfo(np.float32).min))
        kept = graph.node("Where", graph.node("Unsqueeze", real, graph.numbers(2)), hidden, lowest)
        x = graph.node("ReduceMax", kept, axes=[1], keepdims=1)
    if embedding.dense_size:
        x = writer.dense("projection", "projection", x)
        kind = {"tanh": "Tanh", "relu": "Relu"}.get(embedding.dense_activation)
        x = graph.node(kind, x) if kind else x
    if embedding.normalise:
        length = graph.node("ReduceL2", x, axes=[2], keepdims=1)
        x = graph.node("Div", x, graph.node("Max", length, graph.number(1e-12)))
    graph.node("Squeeze", x, graph.numbers(1), name="sentence_embedding")
    states = "batch", "length", str(config.hidden_size)
    return {"sentence_embedding": ("batch", str(config.output_size)), "last_hidden_state": states}
