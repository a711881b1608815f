"""What the terms add to the memory of a step: one layer's attention scores, and arrays as wide as hidden states."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from bertjax.distill.terms import AttentionMaps, AttentionScores, HiddenStates, Loss, Relations
from bertjax.learn import Update
from bertjax.learn.assemble import bind_losses, loss_names
from bertjax.learn.objective import terms_of
from bertjax.learn.step import Term, accumulate, split
from bertjax.measure.cost import peak_memory
from bertjax.model import BertConfig, abstract_params, build

ROWS, LENGTH, HEADS, WIDTH = 4, 128, 4, 128
SCORES, STATE = 4 * ROWS * HEADS * LENGTH**2, 4 * ROWS * LENGTH * WIDTH
"""Bytes of one layer's attention scores, and of one array in the student's width."""
LAYERS = 2
TEACHER = BertConfig(
    architecture="BertModel",
    vocab_size=64,
    hidden_size=2 * WIDTH,
    num_hidden_layers=2 * LAYERS,
    num_attention_heads=HEADS,
    intermediate_size=8 * WIDTH,
)
TERMS: dict[str, tuple[tuple[Loss, ...], int]] = {
    "scores and states": ((AttentionScores(), HiddenStates()), (2 * LAYERS + LAYERS + 1) + 2 * 3),
    "maps": ((AttentionMaps(),), 2 * LAYERS + 2 * 2),
    "relations": ((Relations(heads=16),), 3 + 2 * 3),
}
"""With what waits for the way back and what the terms read of one layer of the teacher, which is twice as wide, in
arrays of the student's width."""


@cache
def memory(losses: tuple[Loss, ...], remat: bool) -> int:
    """Of the teacher's forward pass and the student's gradient."""
    student = TEACHER.replace(hidden_size=WIDTH, num_hidden_layers=LAYERS, intermediate_size=4 * WIDTH, remat=remat)
    bound, own = bind_losses(loss_names(losses), student, [TEACHER], 0)
    models = build(student), build(TEACHER)

    def gradient(trained: Any, batch: Any, teacher: Any) -> Any:
        def terms(trained: Any, part: Any, key: Any) -> Any:
            inputs = part["input_ids"], part["attention_mask"]
            guess: Any = models[0].apply({"params": trained["params"]}, *inputs, rngs={"dropout": key})
            said: Any = models[1].apply({"params": teacher}, *inputs)
            whole = jnp.square(guess.hidden_states[-1]).sum() + said.hidden_states[-1][:, 0].sum()
            learnt = terms_of(bound, trained["extra"], (guess, guess), [(said, said)], part, Update(0, None))
            return {"whole": Term(whole, jnp.ones(())), **learnt}, {}

        return accumulate(terms, trained, split(batch, 1), jax.random.split(jax.random.key(0), 1))

    ids, weights = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32), jax.ShapeDtypeStruct((ROWS,), jnp.float32)
    batch = {"input_ids": ids, "attention_mask": ids, "weights": weights}
    trained = {"params": abstract_params(student), "extra": own}
    lowered = jax.jit(gradient).lower(trained, batch, abstract_params(TEACHER))
    # The default scheduler of CPUs looks for what can run at the same time, at any price in memory.
    options = {"xla_cpu_enable_concurrency_optimized_scheduler": False, "xla_backend_optimization_level": 0}
    return peak_memory(lowered.compile(options)) or 0


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True], ids=["all kept", "remat"])
@pytest.mark.parametrize("name", TERMS)
def test_terms_add_about_one_layers_scores_and_their_gradients(name: str, remat: bool):
    losses, arrays = TERMS[name]
    more = memory(losses, remat) - memory((), remat)
    assert more < SCORES + arrays * STATE
