"""A tiny model, an objective without dropout and an endless supply of batches, for tests of the loop."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.learn.assemble import Learning
from bertjax.learn.losses import classification
from bertjax.learn.step import Objective, Term
from bertjax.model import BertConfig, build
from bertjax.text.batches import BatchIterator
from bertjax.text.batches import batches as make_batches
from tests.text.tiny import made_up, random_lengths

ENCODED = made_up(random_lengths(120, 16))
CONFIG = BertConfig(
    architecture="BertForSequenceClassification",
    vocab_size=4096,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
    labels=("a", "b", "c", "d", "e"),
)
MODEL = build(CONFIG)


@cache
def params() -> Any:
    return jax.device_get(jax.jit(MODEL.init)(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))["params"])


def batches(batch_size: int, **position: int) -> BatchIterator:
    return make_batches(ENCODED, batch_size, seed=0, buckets=(16,), **position)


def terms(params, extra, state, batch, update, key):
    output: Any = MODEL.apply({"params": params}, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    return {"task": Term(*classification(output.logits, batch))}, {}


def learning(terms: Any = terms) -> Learning:
    return Learning(Objective(terms), params())
