"""Give a model exits: heads after its inner layers, so that easy texts can leave early.

    bertjax exits --model=runs/finetuned/bundle --data.train=train.tsv --data.eval=dev.tsv --out=runs/exits
    bertjax exits --model=demo --method=joint --head=shared_pooler --epochs=3 --out=runs/pabee

Four ways to train them (--method): in two stages, a fine-tuned model frozen and its exits trained on the labels
(DeeBERT); jointly with the model, later exits counting more (PABEE); alternating, the last layer in one step and all
heads in the next (BERxiT); or a frozen model whose last layer teaches the exits, which needs no labels (FastBERT). The
result leaves nobody early: `bertjax calibrate` finds the threshold on text that was held out.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from bertjax.errors import UserError
from bertjax.paths import at

from .common import Data
from .loop import Training


@dataclass(frozen=True)
class EarlyExit(Training):
    """Exits as a stage of `compress`: the recipe, without model, data and folder."""

    name: str = "exits"
    """What the result is called in the report."""
    after: tuple[int, ...] = ()
    """Layers with an exit, counted from 0; none given means all but the last. -1 is the embeddings, of which an exit
    can read the mean alone: a bag of words in front of the model."""
    head: Literal["own_pooler", "shared_pooler", "shared"] = "own_pooler"
    """A pooler and a classifier for each exit (DeeBERT), a classifier each behind the model's pooler (PABEE), or the
    model's own head everywhere."""
    reads: Literal["first", "mean"] = "first"
    """What an exit's own pooler reads: the first piece, as in DeeBERT, or the mean of all. The mean knows much more of
    the text in lower layers of models that were pre-trained with it, as the demo's was."""
    method: Literal["two_stage", "joint", "alternating", "self_distil"] = "two_stage"
    """How they are trained."""
    preset: Literal["paper", "official"] = "paper"
    """Of two_stage: the frozen layers run as in prediction, or with dropout, as in the code of DeeBERT."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head == "shared" and self.frozen:
            raise UserError(
                f"--head=shared has no parameters besides the model's, which --method={self.method} freezes; "
                "use --method=joint or alternating."
            )
        if -1 in self.after and self.method == "joint":
            raise UserError(
                "--method=joint weighs an exit by its depth, and that of the embeddings (--after=-1) is 0: it would "
                "learn nothing; use another --method."
            )
        if self.preset == "official" and self.method != "two_stage":
            raise UserError(f"--preset=official says how two_stage differs; --method={self.method} has one form.")

    @property
    def frozen(self) -> bool:
        return self.method in ("two_stage", "self_distil")

    def run(self, context: Any) -> None:
        """The stage: gives the context's model its exits."""
        config = {**vars(self), "model": context.model, "data": context.data, "out": context.out}
        main(Config(**config), score=False)  # the report scores every model


@dataclass(frozen=True)
class Config(EarlyExit):
    """Exits."""

    model: str = "runs/finetune/bundle"
    """The model: a folder, hf:NAME, or demo. The frozen ways need one with a trained head."""
    data: Data = field(default_factory=Data)
    out: str = "runs/exits"
    """Folder for the model, its metrics and its checkpoints."""


def main(config: Config, score: bool = True) -> None:
    import dataclasses

    from bertjax.adaptive import add_exits
    from bertjax.adaptive.policies import policy_of
    from bertjax.model.depth import Exits, Leaving
    from bertjax.text.batches import batches
    from bertjax.text.buckets import length_buckets

    from .data import open_model, read_split, tell, training_task
    from .loop import fit
    from .processes import share
    from .run import begin, finish, keep

    out = at(config.out)
    if begin(out, config):
        return
    start, task = open_model(config.model, training_task(config.data), config.seed, **config.compute())
    if config.frozen and start.fresh:
        raise UserError(
            f"{config.model} has no trained head, and --method={config.method} freezes it: fine-tune it first "
            "(bertjax finetune), or use --method=joint."
        )
    if not config.after and start.config.depth == 1:
        raise UserError("one layer has room for an exit on the embeddings alone: give --after=-1 --reads=mean.")
    exits = Exits(config.after or tuple(range(start.config.depth - 1)), config.head, reads=config.reads)
    new_config, params = add_exits(start.config, start.params, exits, config.seed)
    bundle = dataclasses.replace(start, config=new_config, params=params, fresh=())
    number = len(new_config.labels) == 1
    policy_of(new_config, Leaving("patience", 1, 1.0) if number else Leaving())  # says it where exits make no sense
    train = read_split(config.data, config.data.train, task, bundle.tokenizer, "train", config.method != "self_distil")
    held_out = read_split(config.data, config.data.eval, task, bundle.tokenizer, "test")
    if score and config.compile_only is None:
        tell(config.data, train, held_out)
    buckets = length_buckets(train.encoded.lengths, config.data.max_length)
    data = batches(train.encoded, config.batch_size, seed=config.seed, buckets=buckets, **share())

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
    from bertjax.losses import TASK_LOSSES
    from bertjax.text.batches import inputs_of

    from .step import Term

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
    from bertjax.measure import score

    task, gold = split.encoded.task, split.encoded.labels
    exit_logits, logits = answers_at_exits(bundle.model, bundle.device_params, split.encoded)
    found = {
        f"{task.metric} after {'the embeddings' if number < 0 else f'layer {number}'}": score(
            task.metric, answers(bundle.config, one), gold
        )
        for number, one in zip(bundle.config.exits.after, exit_logits, strict=True)
    }
    return found | {task.metric: score(task.metric, answers(bundle.config, logits), gold)}


if __name__ == "__main__":
    from .settings import run

    run("exits")
