"""Exits added to a model and trained, in one of four ways."""

from typing import Any

from bertjax.errors import UserError
from bertjax.jobs.data import compute_settings
from bertjax.recipes.exits import Config, EarlyExit
from bertjax.recipes.stage import Context
from bertjax.storage.paths import as_path


def main(config: Config, score: bool = True) -> None:
    import dataclasses

    from bertjax.adaptive import add_exits
    from bertjax.adaptive.policies import policy_of
    from bertjax.engine.hosts import process_shard
    from bertjax.engine.loop import fit
    from bertjax.engine.record import begin, finish, keep
    from bertjax.jobs.data import open_model, read_split, tell, training_task
    from bertjax.model.depth import ExitRule, Exits
    from bertjax.text.batches import batches
    from bertjax.text.buckets import length_buckets

    out = as_path(config.out)
    if begin(out, config):
        return
    start, task = open_model(config.model, training_task(config.data), config.seed, **compute_settings(config))
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
    policy_of(new_config, ExitRule("patience", 1, 1.0) if number else ExitRule())  # says it where exits make no sense
    train = read_split(config.data, config.data.train, task, bundle.tokenizer, "train", config.method != "self_distil")
    held_out = read_split(config.data, config.data.eval, task, bundle.tokenizer, "test")
    if score and config.compile_only is None:
        tell(config.data, train, held_out)
    buckets = length_buckets(train.encoded.lengths, config.data.max_length)
    data = batches(train.encoded, config.batch_size, seed=config.seed, buckets=buckets, **process_shard())

    trained, frozen = split_exits(params) if config.frozen else (params, {})
    trained = fit(
        config,
        out,
        "training exits",
        params=trained,
        extra={},
        objective=objective_of(config, bundle.model, task.kind),
        batches=data,
        constants={"frozen": frozen},
    ).params
    bundle = dataclasses.replace(bundle, params={**frozen, **trained})
    keep(bundle, out / "bundle")
    result = scores_at_exits(bundle, held_out) if score else {}
    finish(out, result, train=train.encoded.fingerprint, eval=held_out.encoded.fingerprint)


def split_exits(params: Any) -> tuple[Any, Any]:
    """(the exits, everything else). What is frozen is no part of the trained tree: neither decay nor momentum can
    reach it, and the norm that is clipped is that of the exits alone. (The code of DeeBERT clips by a norm in which
    the frozen gradients count.)"""
    return {"exits": params["exits"]}, {name: branch for name, branch in params.items() if name != "exits"}


def objective_of(config: EarlyExit, model: Any, kind: Any) -> Any:
    """What a step makes smaller, for each way of training."""
    import jax
    import jax.numpy as jnp

    from bertjax.distill import losses
    from bertjax.learn.losses import TASK_LOSSES
    from bertjax.learn.step import Term
    from bertjax.text.batches import inputs_of

    task_loss = TASK_LOSSES[kind]
    dropped = not config.frozen or config.preset == "official"

    def objective(params, extra, state, batch, step, key):
        inputs = inputs_of(batch)
        layers = jax.lax.stop_gradient(batch["frozen"])
        # Without a key for dropout there is none in the exits either: they are one matrix, and learn from all texts.
        rngs = {"dropout": key} if dropped else None
        output = model.apply({"params": {**layers, **params}}, *inputs, rngs=rngs)
        every = [*output.exit_logits, output.logits]
        if config.method == "self_distil":
            sums = [taught(logits, output.logits, batch) for logits in every[:-1]]
        else:
            sums = [task_loss(logits, batch) for logits in every]
        after = [*model.config.exits.after, model.config.depth - 1]
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

    def taught(logits, target, batch):
        if kind == "regression":
            return losses.squared_error(logits, target, batch["weights"])
        return losses.soft_targets(logits, target, batch["weights"], 1.0)

    return objective


def scores_at_exits(bundle: Any, split: Any) -> dict[str, float]:
    """The score at every exit and at the end, for who looks where leaving could begin."""
    from bertjax.adaptive.calibration import answers, answers_at_exits
    from bertjax.metrics.scores import score

    task, gold = split.encoded.task, split.encoded.labels
    exit_logits, logits = answers_at_exits(bundle.model, bundle.device_params, split.encoded)
    found = {
        f"{task.metric} after {'the embeddings' if number < 0 else f'layer {number}'}": score(
            task.metric, answers(bundle.config, one), gold
        )
        for number, one in zip(bundle.config.exits.after, exit_logits, strict=True)
    }
    return found | {task.metric: score(task.metric, answers(bundle.config, logits), gold)}


def run(recipe: EarlyExit, context: Context) -> None:
    """The stage: gives the context's model its exits."""
    config = {**vars(recipe), "model": context.model, "data": context.data, "out": context.out}
    main(Config(**config), score=False)  # the report scores every model
