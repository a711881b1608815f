"""Take parts out of a model: heads, neurons, layers, for good; or weights, which stay where they are as zeros.

    bertjax prune --model=runs/tuned/bundle --heads=0.5 --neurons=0.5 --data.train=train.tsv --out=runs/pruned

What goes is what is worth least (`--score`, measured on training text, `bertjax.prune`), at once or in several rounds
with the worth of the rest measured anew. What that costs is then won back: the smaller model learns from the whole one,
as in train.distill. Layers of different shapes are described by the config, and each is as fast as it is small: with
--speedup=2 instead of parts, as many heads and neurons go as make it so fast here, which is measured.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from bertjax.distill.student import Student
from bertjax.errors import UserError
from bertjax.paths import at

from .common import Data
from .cut import KERNELS
from .distill import Config as Distillation
from .distill import Distill

PARTS = ("layers", "heads", "neurons", "weights")


@dataclass(frozen=True)
class Prune(Distill):
    """Removal as a stage of `compress`, and the recipe of the recovery; the student is the model without its parts."""

    name: str = "pruned"
    """What the result is called in the report."""
    student: Student = field(default_factory=Student, init=False)  # decided here, and so no flags
    keep_zeros: str | None = field(default=None, init=False)
    layers: float = 0.0
    """Which part of the layers goes; first, before anything else does."""
    heads: float = 0.0
    """Which part of the heads goes, over all layers; each keeps one at least."""
    neurons: float = 0.0
    """Which part of the neurons of the feed-forward layers goes; each keeps one at least."""
    speedup: float | None = None
    """Instead of the two: how many times as fast the model is to be, in JAX on this machine, for one training text at a
    time. The same part of heads and of neurons goes, the smallest that is enough, found by measuring."""
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
    """The neurons that a layer keeps, and the columns of its heads, are a multiple of this in number (8, 64, 128), for
    the hardware's sake; then fewer go."""
    pattern: Literal["global", "matrix", "row", "2:4"] = "global"
    """Of weights: compared over all matrices, within each, within what makes one output; or two of every four go, and
    `weights` need not be said."""
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
        if self.speedup is not None and not self.speedup > 1:
            raise UserError(f"--speedup={self.speedup}: expected more than 1, as 2 for half of the time")
        if self.speedup is not None and (self.heads or self.neurons):
            raise UserError(f"--speedup={self.speedup} finds how many --heads and --neurons go: leave these two out")
        if not 0 <= self.over <= 1:
            raise UserError(f"--over={self.over}: expected a part of the steps, from 0 to 1")
        if self.pattern == "2:4" and self.weights not in (0.0, 0.5):
            raise UserError(f"--weights={self.weights}: with --pattern=2:4 half of the weights go; leave it out")
        if self.over and not (self.zeros and self.recover):
            raise UserError(f"--over={self.over} is about --weights that become 0 while the rest recovers: give both")
        if self.score in ("official", "transformers") and (self.neurons or self.speedup):
            raise UserError(f"--score={self.score} is about heads; neurons have importance or another.")
        if self.layers and self.score not in ("importance", "random"):
            raise UserError(f"--score={self.score}: whole layers go by importance, or at random as the control")

    @property
    def zeros(self) -> float:
        """Which part of the weights becomes 0."""
        return 0.5 if self.pattern == "2:4" else self.weights

    def run(self, context: Any) -> None:
        """The stage: prunes the context's model into its folder."""
        recipe = {one.name: getattr(self, one.name) for one in fields(self) if one.init}
        given = {name: getattr(context, name) for name in ("model", "data", "out", "teacher", "outputs")}
        main(Config(**recipe, **given), score=False)


@dataclass(frozen=True)
class Config(Prune):
    """Removal and recovery."""

    model: str = "runs/finetune/bundle"
    """The model: a folder or hf:NAME, in floating point, with a head for the task."""
    teacher: str | None = None
    """Who is learned from: a folder or hf:NAME. None is the whole model."""
    outputs: str | None = None
    """Folder of the teacher's stored outputs, which several runs may share. None is OUT/recovery/teacher."""
    data: Data = field(default_factory=Data)
    out: str = "runs/prune"
    """Folder for the model; OUT/cut holds it as it was before the recovery."""


def main(config: Config, score: bool = True) -> None:
    import shutil

    import bertjax
    from bertjax.paths import local, replaced

    from .cut import cut, thinned
    from .data import open_model as opened
    from .data import read_split, score_of, tell_first, to_be_changed, training_task
    from .distill import main as distil
    from .log import note
    from .processes import agree, alone
    from .run import begin, finish, read_record, update_record

    out = at(config.out)
    if begin(out, config):
        return
    model, task = opened(config.model, training_task(config.data), config.seed, dtype=config.dtype)
    blind = config.score in ("magnitude", "random") and not (config.recover or config.speedup)
    if model.fresh and not blind:
        raise UserError(
            f"{config.model} has no trained head; fine-tune it first (train.finetune). Before that, parts can go by "
            "--score=magnitude --recover=False alone."
        )
    if score:
        tell_first(config.data, config.model, task)
    if not (trained := not model.fresh):
        model = bertjax.load(config.model)  # the head that training will need comes then
    model = to_be_changed(model, config.model)
    if not any(getattr(config, name) for name in ("layers", "heads", "neurons", "speedup", "zeros")):
        raise UserError(
            "nothing is to be taken out: give --layers, --heads, --neurons, --speedup or --weights, as --heads=0.5"
        )

    def cut_once() -> None:  # by one process: another would measure other times
        smaller = cut(config, model, task)
        note(f"what is left of {config.model}: {shapes(smaller.config)}")
        bertjax.save(smaller, out / "cut")

    if not agree((out / "cut" / "config.json").is_file):
        alone(cut_once)
    source = out / "cut"
    if config.recover:
        names = {one.name for one in fields(Distillation)}
        recipe = {name: value for name, value in vars(config).items() if name in names}
        student = Student(start=str(out / "cut"), whole=True)
        pattern = KERNELS if config.zeros and not config.over else None
        changed = {"model": config.teacher or config.model, "student": student, "keep_zeros": pattern}
        thinner = (lambda model, steps: thinned(config, model, steps)) if config.over else None
        distil(Distillation(**{**recipe, **changed, "out": str(out / "recovery")}), score=False, thinner=thinner)
        source = out / "recovery" / "bundle"

    def ship() -> None:
        with replaced(out / "bundle") as folder:
            shutil.copytree(local(source), folder, dirs_exist_ok=True)

    alone(ship)
    held_out = read_split(config.data, config.data.eval, task, model.tokenizer, "test")
    result = {task.metric: score_of(bertjax.load(out / "bundle"), held_out)} if score and trained else {}
    peak = (read_record(out / "recovery") or {}).get("training_step_bytes")
    update_record(out, training_step_bytes=peak)
    finish(out, result, eval=held_out.encoded.fingerprint)


def shapes(config: Any) -> str:
    """What each layer has left."""
    steps = config.depth_steps()
    return ", ".join(f"{step.num_attention_heads} heads and {step.intermediate_size} neurons" for step in steps)


if __name__ == "__main__":
    from .settings import run

    run("prune")
