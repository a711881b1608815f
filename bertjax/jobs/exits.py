"""Training of early exits that are added to a model, by one of four methods.

    two_stage    the model is frozen and the exits are trained on the labels (DeeBERT)
    self_distil  the model is frozen and the exits learn from its own output (FastBERT)
    joint        all exits and the model together, later exits with larger weights (PABEE)
    alternating  even steps train the last layer alone, odd steps the last layer and all exits (BERxiT)

A frozen model keeps its outputs exactly; training it together with its exits makes early exits more accurate.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bertjax.errors import UserError
from bertjax.jobs.data import Split, Text, compute_settings, open_model, tokenizer_of, training_batches
from bertjax.jobs.training import Prepared, result_of, train_unscored
from bertjax.params import Tree
from bertjax.recipes.exits import Config, EarlyExit
from bertjax.recipes.stage import Context, StageResult

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.engine.loop import Trained
    from bertjax.learn.step import Objective
    from bertjax.model import BertModel
    from bertjax.text.tasks import Kind


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
    batches = training_batches(config, config.data, train.encoded, None)
    trainable, frozen = split_exits(params) if config.frozen else (params, {})

    def finish(trained: Trained) -> Bundle:
        return dataclasses.replace(bundle, params={**frozen, **trained.params})

    objective, constants = objective_of(config, bundle.model, task.kind), {"frozen": frozen}
    return Prepared("training exits", trainable, objective, batches, finish, train, held_out, constants=constants)


def split_exits(params: Tree) -> tuple[Tree, Tree]:
    """(the exits, everything else). Frozen parameters are not in the trained tree, so neither weight decay nor momentum
    changes them, and the clipped norm is that of the exits alone. (DeeBERT's code includes the frozen gradients in the
    norm.)"""
    return {"exits": params["exits"]}, {name: branch for name, branch in params.items() if name != "exits"}


def objective_of(config: EarlyExit, model: BertModel, kind: Kind) -> Objective:
    """The objective of the training method."""
    import jax
    import jax.numpy as jnp

    from bertjax.distill import losses
    from bertjax.learn.losses import TASK_LOSSES
    from bertjax.learn.step import Term
    from bertjax.text.batches import inputs_of

    task_loss, exits = TASK_LOSSES[kind], model.config.exits
    assert exits is not None
    dropped = not config.frozen or config.preset == "official"

    def objective(params, extra, state, batch, step, key):
        inputs = inputs_of(batch)
        layers = jax.lax.stop_gradient(batch["frozen"])
        # Without a dropout key the exits have no dropout either: they have few parameters and train on all examples.
        rngs = {"dropout": key} if dropped else None
        output: Any = model.apply({"params": {**layers, **params}}, *inputs, rngs=rngs)
        every = [*output.exit_logits, output.logits]
        if config.method == "self_distil":
            sums = [distilled(logits, output.logits, batch) for logits in every[:-1]]
        else:
            sums = [task_loss(logits, batch) for logits in every]
        after = [*exits.after, model.config.depth - 1]
        shares = {
            "two_stage": [1.0] * (len(every) - 1) + [0.0],
            "self_distil": [1.0] * (len(every) - 1),
            "joint": [(number + 1) / sum(n + 1 for n in after) for number in after],
            # Even steps train the last layer alone.
            "alternating": [jnp.asarray(step % 2, jnp.float32)] * (len(every) - 1) + [1.0],
        }[config.method]
        names = [f"exit_{number}" for number in after[:-1]] + ["last"]
        pairs = zip(names, sums, shares, strict=False)
        return {name: Term(*total, part) for name, total, part in pairs if not isinstance(part, float) or part}, state

    def distilled(logits, target, batch):
        if kind == "regression":
            return losses.squared_error(logits, target, batch["weights"])
        return losses.soft_targets(logits, target, batch["weights"], 1.0)

    return objective


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
