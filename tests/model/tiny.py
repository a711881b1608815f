"""A BERT small enough to compile in a moment, with random numbers everywhere, and a batch for it."""

from typing import Any

import jax
import numpy as np

from bertjax.model import BertConfig, BertModel, abstract_params, build
from bertjax.params import Tree, map_with_path

TINY = BertConfig(
    architecture="BertForSequenceClassification",
    vocab_size=43,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=10,
    max_position_embeddings=16,
    labels=("a", "b", "c"),
)


def tiny(**changes: Any) -> tuple[BertModel, Tree]:
    """The model with these changes, and parameters that are random in biases and LayerNorms too."""
    config = TINY.replace(**changes)
    rng = np.random.default_rng(0)

    def drawn(path: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        spread = 0.1 if path.endswith(("bias", "scale")) else 0.3
        return rng.normal(path.endswith("scale"), spread, leaf.shape).astype(np.float32)

    return build(config), map_with_path(drawn, abstract_params(config))


def tiny_batch(lengths: tuple[int, ...] = (7, 4, 5), columns: int = 7, seed: int = 0) -> dict[str, Any]:
    """Rows of these lengths, padded with id 0 on the right."""
    rng = np.random.default_rng(seed)
    mask = np.arange(columns) < np.array(lengths)[:, None]
    ids = rng.integers(1, TINY.vocab_size, (len(lengths), columns))
    types = rng.integers(0, 2, (len(lengths), columns))
    arrays = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types * mask}
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def run(model: BertModel, params: Tree, batch: dict[str, Any], **more: Any) -> Any:
    """The whole output."""
    return model.apply({"params": params}, **batch, **more)


def apply(model: BertModel, params: Tree, batch: dict[str, Any], **more: Any) -> Any:
    """The whole output, compiled."""
    return jax.jit(lambda params, batch, more: run(model, params, batch, **more))(params, batch, more)
