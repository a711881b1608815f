"""What the terms add to the memory of a step: about one layer's attention scores, and gradients in the student's width."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from bertjax.distill.terms import AttentionMaps, AttentionScores, HiddenStates, Loss, Relations
from bertjax.measure.cost import peak_memory
from bertjax.model import BertConfig, abstract_params, build
from train.lessons import lessons
from train.optimiser import Optimiser
from train.step import Term, init_state, make_step

ROWS, LENGTH, HEADS, WIDTH = 4, 128, 4, 128
SCORES, STATE = 4 * ROWS * HEADS * LENGTH**2, 4 * ROWS * LENGTH * WIDTH
"""Bytes of one layer's attention scores, and of one array in the student's width."""
LAYERS = 3
TEACHER = BertConfig(
    architecture="BertModel",
    vocab_size=64,
    hidden_size=2 * WIDTH,
    num_hidden_layers=2 * LAYERS,
    num_attention_heads=HEADS,
    intermediate_size=8 * WIDTH,
)
TERMS: dict[str, tuple[tuple[Loss, ...], int]] = {  # and how many arrays in the student's width their gradients are
    "scores and states": ((AttentionScores(), HiddenStates()), 2 * LAYERS + LAYERS + 1),
    "maps": ((AttentionMaps(),), 2 * LAYERS),
    "relations": ((Relations(heads=16),), 3),
}


@cache
def memory(losses: tuple[Loss, ...], remat: bool) -> int:
    """Of a training step with the teacher in it, whose last states are asked for by nobody but the losses, and one
    number of each."""
    student = TEACHER.replace(hidden_size=WIDTH, num_hidden_layers=LAYERS, intermediate_size=4 * WIDTH, remat=remat)
    taught, models = lessons(losses, student, [TEACHER], 0), (build(student), build(TEACHER))

    def objective(params: Any, extra: Any, state: Any, batch: Any, step: Any, key: Any) -> Any:
        inputs = batch["input_ids"], batch["attention_mask"]
        guess: Any = models[0].apply({"params": params}, *inputs, rngs={"dropout": key})
        said: Any = models[1].apply({"params": batch["teacher"]}, *inputs)
        whole = jnp.square(guess.hidden_states[-1]).sum() + said.hidden_states[-1][:, 0].sum()
        return {"whole": Term(whole, jnp.ones(()))} | taught.terms(extra, guess, [said], batch), state

    params, optimiser = abstract_params(student), Optimiser().build(100, {"params": abstract_params(student), "extra": taught.extra})
    ids, weights = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32), jax.ShapeDtypeStruct((ROWS,), jnp.float32)
    state = jax.eval_shape(lambda p, e: init_state(p, e, {}, optimiser), params, taught.extra)
    batch = {"input_ids": ids, "attention_mask": ids, "weights": weights}
    step = jax.jit(make_step(objective, optimiser, jax.random.key(0)), donate_argnums=0)
    lowered = step.lower(state, batch, {"teacher": abstract_params(TEACHER)})
    # The default scheduler of CPUs looks for what can run at the same time, at any price in memory.
    options = {"xla_cpu_enable_concurrency_optimized_scheduler": False, "xla_backend_optimization_level": 0}
    return peak_memory(lowered.compile(options)) or 0


@pytest.mark.parametrize("remat", [False, True], ids=["all kept", "remat"])
@pytest.mark.parametrize("name", TERMS)
def test_terms_add_about_one_layers_scores_and_their_gradients(name: str, remat: bool):
    losses, gradients = TERMS[name]
    more = memory(losses, remat) - memory((), remat)
    print(name, remat, memory((), remat)/SCORES, "more in layers' scores", more/SCORES, "gradients", gradients*STATE/SCORES)
    assert more < 1.25 * SCORES + gradients * STATE
