"""Take parts out of a model: heads, neurons, layers, for good; or weights, which stay where they are as zeros.

    python -m train.prune --model=runs/tuned/bundle --heads=0.5 --neurons=0.5 --data.train=train.tsv --out=runs/pruned

What goes is what is worth least (`--score`, measured on training text, `bertjax.prune`), at once or in several rounds
with the worth of the rest measured anew. What that costs is then won back: the smaller model learns from the whole one,
as in train.distill. Layers of different shapes are described by the config, and each is as fast as it is small.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from bertjax.distill.student import Student
from bertjax.errors import UserError
from bertjax.paths import at

from .common import Data
from .distill import Config as Distillation
from .distill import Distill

KERNELS = r"^encoder/.*kernel$"
PARTS = ("layers", "heads", "neurons", "weights")


@dataclass(frozen=True)
class Prune(Distill):
    """Removal as a stage of `compress`, and the recipe of the recovery; the student is the model without its parts."""

    name: str = "pruned"
    """What the result is called in the report."""
    layers: float = 0.0
    """Which part of the layers goes; first, before anything else does."""
    heads: float = 0.0
    """Which part of the heads goes, over all layers; each keeps one at least."""
    neurons: float = 0.0
    """Which part of the neurons of the feed-forward layers goes; each keeps one at least."""
    weights: float = 0.0
    """Which part of the encoder's weights becomes 0. They stay in their places, which saves no time."""
    score: Literal["importance", "official", "transformers", "magnitude", "activity", "random"] = "importance"
    """What says how much a part is worth. importance: the gradient of its gate, example by example (Michel et al.
    2019), which needs labels; official and transformers: what their programs compute instead, for heads. activity: the
    variance of what it says. Weights go by magnitude."""
    over: float = 0.0
    """Over which part of the recovery's steps weights become 0, more and more of the smallest (Zhu & Gupta 2017), from
    its start on. 0: all at once, before it."""
    rounds: int = 1
    """In how many rounds, each with the worth of what is left measured anew."""
    multiple: int = 1
    """Each layer keeps a number of parts that is one of this, for the sake of the hardware; then fewer go."""
    pattern: Literal["global", "matrix", "row", "2:4"] = "global"
    """Of weights: compared over all matrices, within each, within what makes one output; or two of every four, whatever
    `weights` says."""
    texts: int = 512
    """Training texts by which the worth is measured."""
    recover: bool = True
    """Whether to train afterwards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in PARTS:
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name}={getattr(self, name)}: expected a part of the whole, from 0 to below 1")
        for name in ("rounds", "multiple", "texts"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}={getattr(self, name)}: expected 1 or more")
        if not 0 <= self.over <= 1:
            raise UserError(f"--over={self.over}: expected a part of the steps, from 0 to 1")
        if self.over and not (self.weights and self.recover):
            raise UserError(f"--over={self.over} is about --weights that become 0 while the rest recovers: give both")
        if self.student != Student() or self.keep_zeros is not None:
            raise UserError("the student of a pruning is the model without its parts, with its zeros: leave both out")
        if self.score in ("official", "transformers") and self.neurons:
            raise UserError(f"--score={self.score} is about heads; neurons have importance or another.")
        if self.layers and self.score not in ("importance", "random"):
            raise UserError(f"--score={self.score}: whole layers go by importance, or at random as the control")

    def run(self, context: Any) -> None:
        """The stage: prunes the context's model into its folder."""
        given = {"model": context.model, "data": context.data, "out": context.out, "outputs": context.outputs}
        main(Config(**{**vars(self), **given}), score=False)


@dataclass(frozen=True)
class Config(Prune):
    """Removal and recovery."""

    model: str = "runs/finetune/bundle"
    """The model: a folder or hf:NAME, in floating point, with a head for the task."""
    outputs: str | None = None
    """Folder of the whole model's stored outputs, which several runs may share. None is OUT/recovery/teacher."""
    data: Data = field(default_factory=Data)
    out: str = "runs/prune"
    """Folder for the model; OUT/cut holds it as it was before the recovery."""


def main(config: Config, score: bool = True) -> None:
    import dataclasses
    import shutil
    from functools import partial

    import bertjax
    from bertjax.paths import local, replaced

    from .data import open_model as opened
    from .data import read_split, score_of, training_task
    from .distill import main as distil
    from .log import note
    from .processes import agree, alone
    from .run import begin, finish, keep, read_record, update_record

    out = at(config.out)
    if begin(out, config):
        return
    model, task = opened(config.model, training_task(config.data), config.seed, dtype=config.dtype)
    if model.fresh:
        raise UserError(f"{config.model} has no trained head; fine-tune it first (train.finetune).")
    if not any(getattr(config, name) for name in PARTS):
        raise UserError("nothing is to be taken out: give --layers, --heads, --neurons or --weights, as --heads=0.5")
    if not agree((out / "cut" / "config.json").is_file):
        smaller = cut(config, model, task)
        note(f"what is left of {config.model}: {shapes(smaller.config)}")
        keep(smaller, out / "cut")
    source = out / "cut"
    if config.recover:
        names = {one.name for one in dataclasses.fields(Distillation)}
        recipe = {name: value for name, value in vars(config).items() if name in names}
        student = Student(start=str(out / "cut"), whole=True)
        pattern = KERNELS if config.weights and not config.over else None
        changed = {"student": student, "keep_zeros": pattern, "out": str(out / "recovery")}
        thinner = partial(thinned, config) if config.over else None
        distil(Distillation(**{**recipe, **changed}), score=False, thinner=thinner)
        source = out / "recovery" / "bundle"

    def ship() -> None:
        with replaced(out / "bundle") as folder:
            shutil.copytree(local(source), folder, dirs_exist_ok=True)

    alone(ship)
    held_out = read_split(config.data, config.data.eval, task, model.tokenizer, "test")
    result = {task.metric: score_of(bertjax.load(out / "bundle"), held_out)} if score else {}
    peak = (read_record(out / "recovery") or {}).get("training_step_bytes")
    update_record(out, training_step_bytes=peak)
    finish(out, result, eval=held_out.encoded.fingerprint)


def shapes(config: Any) -> str:
    """What each layer has left."""
    steps = config.depth_steps()
    return ", ".join(f"{step.num_attention_heads} heads and {step.intermediate_size} neurons" for step in steps)


def cut(config: Config, model: Any, task: Any) -> Any:
    """The model as a bundle without the parts that are worth least: layers, then heads, then neurons, then weights."""
    looks = config.score not in ("magnitude", "random")
    batches = measured_on(config, model, task) if looks and (config.layers or config.heads or config.neurons) else []
    if config.layers:
        model = without_layers(config, model, batches)
    for part, fraction in (("heads", config.heads), ("neurons", config.neurons)):
        if fraction:
            model = without(config, model, batches, part, fraction)
    return with_zeros(config, model) if config.weights and not config.over else model


def measured_on(config: Config, model: Any, task: Any) -> list[Any]:
    """Training texts in batches of one length."""
    from .data import read_split
    from .quantize import sample

    train = read_split(config.data, config.data.train, task, model.tokenizer, "train", config.score != "activity")
    return sample(train.encoded, config.texts, one_length=True)


def without(config: Config, model: Any, batches: list[Any], part: Any, fraction: float) -> Any:
    """The model without a part of its heads or neurons."""
    import dataclasses

    from bertjax.prune import keep_heads, keep_neurons
    from bertjax.prune.choice import strongest
    from bertjax.prune.scores import OWNER
    from bertjax.prune.surgery import sizes

    whole = sum(sizes(model.config, OWNER[part]).values())
    for number in range(1, config.rounds + 1):
        scores = worth(config, model, batches, part)
        gone = whole - sum(map(len, scores.values()))
        wanted = max(0, round(fraction * whole * number / config.rounds) - gone)
        keep = keep_heads if part == "heads" else keep_neurons
        described, params = keep(model.config, model.params, strongest(scores, wanted, multiple=config.multiple))
        model = dataclasses.replace(model, config=described, params=params)
    return model


def worth(config: Config, model: Any, batches: list[Any], part: Any) -> dict[int, Any]:
    """The scores of the parts that are left."""
    from bertjax.prune.scores import activity, importance, magnitude, random

    if config.score == "magnitude":
        return magnitude(model.config, model.params, part)
    if config.score == "random":
        return random(model.config, part, config.seed)
    if config.score == "activity":
        found = activity(model.model, model.params, batches, part)
        return {group: one.variance for group, one in found.items()}
    form: Any = "paper" if config.score == "importance" else config.score
    return importance(model.model, model.params, batches, task_loss(model), part, form)


def without_layers(config: Config, model: Any, batches: list[Any]) -> Any:
    """The model without a part of its layers."""
    import dataclasses

    import numpy as np

    from bertjax.prune import keep_layers
    from bertjax.prune.scores import layer_importance

    depth = len(model.config.depth_steps())
    for number in range(1, config.rounds + 1):
        left = len(model.config.depth_steps())
        wanted = min(left - 1, max(0, round(config.layers * depth * number / config.rounds) - (depth - left)))
        if config.score == "random":
            scores = np.random.default_rng(config.seed).random(left)
        else:
            scores = layer_importance(model.model, model.params, batches, task_loss(model))
        kept = np.sort(np.argsort(-scores, kind="stable")[: left - wanted]).tolist()
        described, params = keep_layers(model.config, model.params, kept)
        model = dataclasses.replace(model, config=described, params=params)
    return model


def with_zeros(config: Config, model: Any) -> Any:
    """The model with zeros instead of its smallest weights."""
    import dataclasses

    from bertjax.prune.masks import apply_masks, magnitude_masks, n_of_m_masks

    if config.pattern == "2:4":
        masks = n_of_m_masks(model.params, KERNELS, 2, 4)
    else:
        masks = magnitude_masks(model.params, KERNELS, config.weights, config.pattern)
    return dataclasses.replace(model, params=apply_masks(model.params, masks))


def thinned(config: Config, student: Any, steps: int) -> tuple[Any, Any]:
    """Masks that hide nothing yet, and how they hide more and more of the student over a part of these steps. The last
    step learns with all of the zeros."""
    from bertjax.prune.masks import all_stay, thinning

    scope, sparsity = (4, 0.5) if config.pattern == "2:4" else (config.pattern, config.weights)
    until = min(round(config.over * steps), steps - 1)
    return all_stay(student.params, KERNELS, scope), thinning(scope, sparsity, until)


def task_loss(model: Any) -> Any:
    """The loss of the model's task against the labels, example by example."""
    from bertjax.distill.terms import HardLabels

    formula = HardLabels().build(model.config, model.config)

    def loss(output: Any, batch: Any) -> Any:
        return formula({}, output, output, batch)

    return loss


if __name__ == "__main__":
    from .settings import run

    run("prune")
