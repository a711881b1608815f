"""Training of early exits that are added to a model, by one of four methods.

    two_stage    the model is frozen and the exits are trained on the labels (DeeBERT)
    self_distil  the model is frozen and the exits learn from its own output (FastBERT)
    joint        all exits and the model together, later exits with larger weights (PABEE)
    alternating  even steps train the last layer alone, odd steps the last layer and all exits (BERxiT)

A frozen model keeps its outputs exactly; training it together with its exits makes early exits more accurate.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

from bertjax.distill.terms.exits import ExitLabels, ExitSoftTargets
from bertjax.errors import UserError
from bertjax.jobs.data import Split, Text, compute_settings, open_model, tokenizer_of
from bertjax.jobs.training import Prepared, result_of, supervised, train_unscored
from bertjax.learn.transform import Frozen
from bertjax.recipes.exits import Config, EarlyExit
from bertjax.recipes.stage import Context, StageResult

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.learn.loss import Loss
    from bertjax.model import BertConfig


def prepare(config: Config, text: Text) -> Prepared:
    """The model with exits after its layers. Where the method freezes the model, only the exits are trained."""
    from bertjax.adaptive import add_exits
    from bertjax.adaptive.policies import policy_of
    from bertjax.model.depth import ExitRule, Exits

    start, task = open_model(config.model, text.task(), config.seed, **compute_settings(config))
    if config.frozen and start.newly_initialized:
        raise UserError(
            f"{config.model} has no trained head, and --method={config.method} freezes it: fine-tune it first "
            "(bertjax finetune), or use --method=joint."
        )
    if not config.after and start.config.depth == 1:
        raise UserError("one layer has room for an exit on the embeddings alone: give --after=-1 --reads=mean.")
    exits = Exits(config.after or tuple(range(start.config.depth - 1)), config.head, reads=config.reads)
    new_config, params = add_exits(start.config, start.params, exits, config.seed)
    bundle = dataclasses.replace(start, config=new_config, params=params, newly_initialized=())
    number = len(new_config.labels) == 1
    policy_of(new_config, ExitRule("patience", 1, 1.0) if number else ExitRule())  # refuses tasks without early exit
    train = text.training(task, tokenizer_of(bundle), labelled=config.method != "self_distil")
    held_out = text.held_out(task, tokenizer_of(bundle))
    text.describe(train, held_out)
    prepared = supervised(
        config,
        text.data,
        "training exits",
        bundle,
        losses_of(config, bundle.config),
        (train, held_out),
        transforms=(Frozen(ALL_BUT_EXITS),) if config.frozen else (),
        # Without dropout in the frozen layers the exits have none either: they have few parameters.
        dropout=not config.frozen or config.preset == "official",
    )
    return dataclasses.replace(prepared, score=partial(scores_at_exits, split=held_out))


ALL_BUT_EXITS = "^(?!exits/)"
"""Frozen parameters are not in the trained tree, so the clipped norm is that of the exits alone. (DeeBERT's code
includes the frozen gradients in the norm.)"""


def losses_of(config: EarlyExit, model: BertConfig) -> dict[str, Loss]:
    """What each exit learns, and the last layer."""
    assert model.exits is not None
    after, last = model.exits.after, model.depth - 1
    if config.method == "self_distil":
        return {f"exit_{layer}": ExitSoftTargets(1.0, number) for number, layer in enumerate(after)}
    if config.method == "joint":
        whole = sum(layer + 1 for layer in (*after, last))
        weights = {layer: (layer + 1) / whole for layer in (*after, last)}
    else:
        weights = {**dict.fromkeys(after, 1.0), last: float(config.method == "alternating")}
    alternates = config.method == "alternating"  # even steps train the last layer alone
    exits: dict[str, Loss] = {
        f"exit_{layer}": ExitLabels(weights[layer], number, alternates) for number, layer in enumerate(after)
    }
    return exits | ({"last": ExitLabels(weights[last])} if weights[last] else {})


def scores_at_exits(bundle: Bundle, split: Split) -> dict[str, float]:
    """The score at every exit and at the last layer."""
    from bertjax.adaptive.calibration import logits_at_exits, scored_predictions
    from bertjax.metrics.scores import score

    task, gold, exits = split.encoded.task, split.encoded.labels, bundle.config.exits
    assert gold is not None
    assert exits is not None
    exit_logits, logits = logits_at_exits(bundle.model, bundle.device_params, split.encoded)
    found = {
        f"{task.metric} after {'the embeddings' if number < 0 else f'layer {number}'}": score(
            task.metric, scored_predictions(bundle.config, one), gold
        )
        for number, one in zip(exits.after, exit_logits, strict=True)
    }
    return found | {task.metric: score(task.metric, scored_predictions(bundle.config, logits), gold)}


def run(recipe: EarlyExit, context: Context) -> StageResult:
    """The stage: adds exits to the context's model and trains them."""
    given = {"model": context.model, "data": context.data, "out": context.out}
    train_unscored(Config(**{**vars(recipe), **given}), Text.of_context(context), prepare)
    return result_of(context.out, context.data)
