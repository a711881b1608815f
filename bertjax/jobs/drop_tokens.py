"""Token dropping: the shares of tokens are given or searched, and the model is trained with them.

A candidate of the search is tried with its dropped tokens hidden, so one compiled program serves all candidates. Its
loss is the divergence of its predictions from those of the whole model: that needs no labels, and it tells candidates
apart that a score on a few hundred texts would not.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bertjax.errors import UserError
from bertjax.jobs.data import Split, Text, evenly_spaced, open_model, tokenizer_of, without_threshold
from bertjax.jobs.recovery import run_stage, smaller_and_recovered
from bertjax.recipes.drop_tokens import Config, DropTokens
from bertjax.recipes.stage import Context, StageResult
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from bertjax.bundle import Bundle
    from bertjax.text.encode import Encoded
    from bertjax.text.tasks import Task
    from bertjax.token_dropping.search import Candidate, Shares


def drop_tokens(config: Config, text: Text) -> tuple[Bundle, Split]:
    """Finds the shares, trains if configured, and saves the model as `config.out/bundle`; `config.out/cut` holds it
    before training. Returns the model and the evaluation examples."""
    model, task = open_model(config.model, text.task(), config.seed, dtype=config.dtype)
    if model.newly_initialized:
        raise UserError(f"{config.model} has no trained head; fine-tune it first (bertjax finetune).")
    if model.config.retention is not None:
        raise UserError(f"{config.model} drops tokens already; give the model that keeps all of them.")
    if not config.shares and config.flops is None:
        raise UserError("how many tokens are to go on? Give --flops, as --flops=0.5, or --shares for each layer.")
    held_out = text.held_out(task, tokenizer_of(model))
    if text.verbose:
        text.describe(text.training(task, tokenizer_of(model), labelled=False), held_out)

    def make() -> Bundle:
        return with_retention(config, without_threshold(model, config.model), task, text)

    return smaller_and_recovered(config, text, make), held_out


def with_retention(config: Config, model: Bundle, task: Task, text: Text) -> Bundle:
    """The model that drops tokens, before training."""
    from bertjax.engine.log import note
    from bertjax.engine.record import update_record
    from bertjax.token_dropping.costs import mean_flops, mean_tokens

    source = config.held_out or config.data.train
    if source == config.data.eval and config.held_out:
        raise UserError(
            f"--held_out and --data.eval are the same text, {source}. The shares must be chosen on one text and "
            "measured on another."
        )
    if config.held_out:
        encoded = text.held_out(task, tokenizer_of(model), config.held_out, "validation").encoded
    else:
        encoded = text.training(task, tokenizer_of(model), labelled=False).encoded
    shares = config.shares or searched(config, model, encoded)
    smaller = dataclasses.replace(model, config=model.config.replace(retention=config.retention(shares)))
    lengths, first = encoded.lengths, model.model.reads_first
    costs = [mean_flops(model.config, lengths, one.config.retention, first) for one in (model, smaller)]
    tokens, left = mean_tokens(smaller.config, lengths), costs[1] / costs[0]
    update_record(as_path(config.out), shares=shares, mean_tokens=tokens, flops_left=left)
    note(f"shares of the tokens that go on: {', '.join(f'{share:g}' for share in shares)}")
    note(
        f"mean tokens of a text: {lengths.mean():.1f}, after each layer {', '.join(f'{one:.1f}' for one in tokens)}; "
        f"{left:.0%} of the arithmetic is left, on texts without padding"
    )
    return smaller


def searched(config: Config, model: Bundle, encoded: Encoded) -> Shares:
    """The shares with the smallest divergence from the whole model, of those that remove enough arithmetic."""
    from bertjax.engine.log import note
    from bertjax.engine.record import update_record
    from bertjax.token_dropping.costs import mean_flops
    from bertjax.token_dropping.search import search

    assert config.flops is not None
    depth, first = model.config.depth, model.model.reads_first
    if depth == 1 and first:
        raise UserError("the only layer of this model computes [CLS] alone, so no token can be dropped.")

    def whole(shares: Shares) -> Shares:
        return (*shares, shares[-1]) if first else shares  # of the last layer only [CLS] is read

    def cost(shares: Shares) -> float:
        return mean_flops(model.config, encoded.lengths, config.retention(whole(shares)), first) / plain

    def tried(number: int, best: Candidate) -> None:
        if number % 10 == 0:
            note(f"candidate {number} of {config.evaluations}: the smallest divergence so far is {best.loss:.2g}")

    plain = mean_flops(model.config, encoded.lengths, None, first)
    loss = divergence_from_whole(config, model, encoded)
    found = search(
        cost,
        lambda shares: loss(whole(shares)),
        depth - first,
        1 - config.flops,
        evaluations=config.evaluations,
        seed=config.seed,
        notify=tried,
    )
    update_record(as_path(config.out), searched=[one._asdict() for one in found[:10]])
    return whole(found[0].shares)


def divergence_from_whole(config: Config, model: Bundle, encoded: Encoded) -> Callable[[Shares], float]:
    """The mean divergence of the predictions with some shares from those of the whole model, KL(whole || shares)."""
    import jax
    import jax.numpy as jnp

    from bertjax.distill.terms import SoftTargets
    from bertjax.model.tokens import TokenRule
    from bertjax.text.batches import inputs_of
    from bertjax.token_dropping.length_drop import hidden_by_share

    batches, params = evenly_spaced(encoded, config.examples), model.device_params
    formula = SoftTargets(1.0).build(model.config, model.config)

    @jax.jit
    def divergence(params: Any, shares: Any, batch: Any) -> tuple[Any, Any]:
        rule = TokenRule(hidden_by_share, config.ranked_by, config.after, arrays=shares)
        whole: Any = model.model.apply({"params": params}, *inputs_of(batch))
        fewer: Any = model.model.apply({"params": params}, *inputs_of(batch), token_rule=rule)
        return formula({}, fewer, whole, batch)

    def loss(shares: Shares) -> float:
        sums = [divergence(params, jnp.asarray(shares, jnp.float32), batch) for batch in batches]
        return sum(float(total) for total, _ in sums) / sum(float(weight) for _, weight in sums)

    return loss


def run(recipe: DropTokens, context: Context) -> StageResult:
    """The stage: a model that drops tokens, in its folder."""
    return run_stage(recipe, context, Config, drop_tokens)
