"""Recipes at their full size, built without making a single number."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.bundle import Bundle
from bertjax.engine.optimiser import build_optimiser
from bertjax.learn.assemble import Learning
from bertjax.learn.step import init_state, make_step
from bertjax.model import BertConfig, abstract_params

Shapes = dict[str, jax.ShapeDtypeStruct]


def integers(rows: int, **sizes: int) -> Shapes:
    return {name: jax.ShapeDtypeStruct((rows, size), jnp.int32) for name, size in sizes.items()}


def numbers(rows: int, **sizes: int) -> Shapes:
    return {name: jax.ShapeDtypeStruct((rows, size), jnp.float32) for name, size in sizes.items()}


def pretraining_batch(config: Any) -> Shapes:
    """What `bertjax.text.pretraining` gives for a recipe."""
    rows, length = config.batch_size, config.data.max_length
    places = config.masking.most(length)
    ids = integers(rows, input_ids=length, attention_mask=length, token_type_ids=length)
    asked = integers(rows, masked_positions=places, masked_labels=places, cls_positions=1, sentence_labels=1)
    weights = {"weights": jax.ShapeDtypeStruct((rows,), jnp.float32)}
    return ids | asked | weights | numbers(rows, masked_weights=places, sentence_weights=1)


def task_batch(config: Any) -> Shapes:
    """What `bertjax.text.batches` gives for a recipe that labels texts."""
    rows, length = config.batch_size, config.data.max_length
    ids = integers(rows, input_ids=length, attention_mask=length, token_type_ids=length)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
    return {**ids, "labels": labels, "weights": jax.ShapeDtypeStruct((rows,), jnp.float32)}


def abstract_bundle(config: BertConfig) -> Bundle:
    """A model whose parameters have shapes alone."""
    return Bundle(config, abstract_params(config))


def traced_step(config: Any, learning: Learning, batch: Shapes) -> set[str]:
    """The names of the metrics of a recipe's whole step, which must leave the state's shapes and types as they are."""
    trees = learning.params, learning.extra, learning.state
    trained = {"params": learning.params, "extra": learning.extra}
    tx = build_optimiser(config.optimiser, config.total_steps(1000), trained, learning.phases, learning.holds_still)
    state = jax.eval_shape(partial(init_state, optimiser=tx), *trees)
    step = make_step(learning.objective, tx, jax.random.key(0), config.micro_batches)
    after, found = jax.eval_shape(step, state, batch, learning.constants)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    return set(found)
