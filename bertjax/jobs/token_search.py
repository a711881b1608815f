"""The search for the shares of tokens of a model.

A candidate is tried with its dropped tokens hidden, so one compiled program serves all candidates. Its loss is the
divergence of its predictions from those of the whole model: that needs no labels, and it tells candidates apart that a
score on a few hundred texts would not.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bertjax.errors import UserError
from bertjax.jobs.data import evenly_spaced
from bertjax.recipes.drop_tokens import Config
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from bertjax.bundle import Bundle
    from bertjax.text.encode import Encoded
    from bertjax.token_dropping.search import Candidate, Shares


def searched(config: Config, model: Bundle, encoded: Encoded) -> Shares:
    """The shares with the smallest divergence from the whole model, of those that remove enough arithmetic."""
    from bertjax.engine.record import update_record
    from bertjax.token_dropping.search import search

    assert config.flops is not None
    found = search(**search_settings(config, model, encoded), most=1 - config.flops)
    update_record(as_path(config.out), searched=[one._asdict() for one in found[:10]])
    return of_all_layers(model, found[0].shares)


def search_settings(config: Config, model: Bundle, encoded: Encoded) -> dict[str, Any]:
    """What `search` and `ladder` have in common: the cost and the loss of a candidate, and how many are tried."""
    from bertjax.engine.log import note
    from bertjax.token_dropping.costs import mean_flops

    depth, first = model.config.depth, model.model.reads_first
    if depth == 1 and first:
        raise UserError("the only layer of this model computes [CLS] alone, so no token can be dropped.")
    plain = mean_flops(model.config, encoded.lengths, None, first)
    divergence = divergence_from_whole(config, model, encoded)

    def cost(shares: Shares) -> float:
        retention = config.retention(of_all_layers(model, shares))
        return mean_flops(model.config, encoded.lengths, retention, first) / plain

    def tried(number: int, best: Candidate) -> None:
        if number % 10 == 0:
            note(f"candidate {number} of {config.evaluations}: the smallest divergence so far is {best.loss:.2g}")

    return {
        "cost": cost,
        "loss": lambda shares: divergence(of_all_layers(model, shares)),
        "layers": depth - first,
        "evaluations": config.evaluations,
        "seed": config.seed,
        "notify": tried,
    }


def divergence_from_whole(config: Config, model: Bundle, encoded: Encoded) -> Callable[[Shares], float]:
    """The mean divergence of the predictions with some shares from those of the whole model, KL(whole || shares)."""
    import jax
    import jax.numpy as jnp

    from bertjax.distill.terms import SoftTargets
    from bertjax.model.tokens import TokenRule
    from bertjax.predict import forward
    from bertjax.text.batches import inputs_of
    from bertjax.token_dropping.length_drop import hidden_by_share

    batches, params = evenly_spaced(encoded, config.examples), model.device_params
    formula = SoftTargets(1.0).build(model.config, model.config)
    whole = [forward(model.model, params, *inputs_of(batch)) for batch in batches]

    @jax.jit
    def divergence(params: Any, shares: Any, batch: Any, whole: Any) -> tuple[Any, Any]:
        rule = TokenRule(hidden_by_share, config.ranked_by, config.after, arrays=shares)
        fewer: Any = model.model.apply({"params": params}, *inputs_of(batch), token_rule=rule)
        return formula({}, fewer, fewer._replace(logits=whole), batch)  # of the teacher it reads logits alone

    def loss(shares: Shares) -> float:
        array = jnp.asarray(shares, jnp.float32)
        sums = [divergence(params, array, *one) for one in zip(batches, whole, strict=True)]
        return sum(float(total) for total, _ in sums) / sum(float(weight) for _, weight in sums)

    return loss


def of_all_layers(model: Bundle, shares: Shares) -> Shares:
    """The shares of a candidate, and of the last layer where it reads [CLS] alone and none is searched for it."""
    return (*shares, shares[-1]) if model.model.reads_first else shares


def dropping(config: Config, model: Bundle, shares: Shares) -> Bundle:
    """The model with these shares."""
    return dataclasses.replace(model, config=model.config.replace(retention=config.retention(shares)))
