"""The search against random choice and against a fixed list of five candidates, at equal minutes.

    python -m tests.benchmarks.search --train=SST-2/train.tsv --eval=SST-2/dev.tsv --out=runs/searches

For each seed, the demo model is fine-tuned on `--rows` of the training text, less what is held out, and each method has
`--minutes` from there:

    search   the search within bounds
    random   shapes drawn at random from those within the bounds by their predicted cost, each trained to the end for as
             many steps as what reaches the end of the search
    five     int8, students of half and of a quarter of the layers, and both in int8

All use one recipe, one text to choose on, and one rule of choice. Reported are, on the evaluation text: the file that
is chosen; how much all files dominate in doublings of speed and points of score (hypervolume, up to the teacher's time
and ten points lost); and how far predicted times were off. Every row is a file in OUT, so that a table is continued.
"""

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.distill.terms import HiddenStates, SoftTargets
from bertjax.engine.log import Log
from bertjax.engine.record import begin
from bertjax.jobs.budget import choose
from bertjax.jobs.compress import Compression
from bertjax.jobs.data import Text, open_model, predict_exported
from bertjax.jobs.report import Model
from bertjax.jobs.search import END, Search, Trial, search
from bertjax.metrics.scores import score
from bertjax.recipes.compress import Config
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.quantize import Quantize
from bertjax.recipes.stage import Context
from bertjax.search.front import Plan, hypervolume, planned_by_time
from bertjax.student import Student
from bertjax.text.tokenizer import Tokenizer

FURTHEST = 10.0
"""Points lost beyond which a file adds nothing to the hypervolume."""


class Timed(Search):
    """What all methods know: the time that is left, and how fast trials are."""

    def left(self, began: float) -> float:
        return 60 * (self.config.minutes or 0) * (1 - END) - (time.monotonic() - began)


class Random(Timed):
    def plan(self, trials: Sequence[Trial], began: float) -> Plan:
        if not self.state["plan"]:
            setup, step = self.pace(trials)
            steps = sum(planned_by_time(len(trials), self.left(began), setup, step).steps)
            count = max(1, int(self.left(began) / (setup + step * steps)))
            self.write(plan=dataclasses.asdict(Plan((min(count, len(trials)),), (steps,))))
        return super().plan(trials, began)

    def rungs(self, trials: Sequence[Trial], plan: Plan) -> list[Trial]:
        rng = np.random.default_rng(self.config.seed or 0)
        drawn = rng.choice(len(trials), plan.trials[0], replace=False)
        return [trials[i] for i in drawn if self.tried(trials[i], 0, plan.steps[0])]


class Five(Timed):
    """Half and a quarter of the layers share the time."""

    def plan(self, trials: Sequence[Trial], began: float) -> Plan:
        if not self.state["plan"]:
            setup, step = self.pace(trials)
            steps = max(1, int((self.left(began) / 2 - setup) / step))
            self.write(plan=dataclasses.asdict(Plan((2,), (steps,))))
        return super().plan(trials, began)

    def rungs(self, trials: Sequence[Trial], plan: Plan) -> list[Trial]:
        del trials, plan
        return []

    def draw(self, left: Sequence[Trial]) -> None:
        del left

    def models(self, left: Sequence[Trial]) -> list[Model]:
        depth, steps = self.bundle.config.depth, self.state["plan"]["steps"][0]
        bundles = {"": str(self.teacher.folder)}
        context = Context(bundles[""], self.data, self.job.text.reader, "")
        for name, part in (("half", 2), ("quarter", 4)):
            student = Student(num_hidden_layers=max(1, round(depth / part)))
            stage = self.distil.with_training(steps=steps, epochs=None).with_student(student)
            bundles[name] = str(stage.run(context._replace(out=str(self.out / "stages" / name))).bundle)
        made = [self.export(bundles[name], name) for name in ("half", "quarter")]
        for name, bundle in bundles.items():
            out = self.out / "stages" / f"{name}int8"
            rounded = self.quantise.run(context._replace(model=bundle, out=str(out), finetuned=bundles[""]))
            made.append(self.export(str(rounded.bundle), f"{name}-int8".removeprefix("-")))
        return made


METHODS = {"search": Search, "random": Random, "five": Five}


def row(config: Config, kind: type[Search]) -> dict[str, Any]:
    """What one method reached with one seed."""
    out, text = Path(config.out), Text.of(config.data, verbose=False)
    begin(out, config, text.reader)
    began, task = time.monotonic(), text.task()
    with contextlib.closing(Log(out, "searching", 1, start=None, quiet=False)) as log:
        models, files = search(Compression(config, out, text, task, log, []), kind)
    _, task = open_model(str(models[0].folder), task, 0)

    def scored(model: Model) -> float:
        split = text.held_out(task, Tokenizer.from_folder(model.folder))
        return 100 * score(split.encoded.task.metric, *predict_exported(model.folder, split))

    teacher, chosen = scored(models[1]), choose(files, config)
    lost = {one.model.name: teacher - scored(one.model) for one in files}
    points = np.array([[-np.log2(one.speed_up), lost[one.model.name]] for one in files])
    state = json.loads((out / "search.json").read_text())
    off = [abs(one["predicted_ms"] / one["ms"] - 1) for one in state["files"] if one["predicted_ms"]]
    return {
        "teacher": teacher,
        "chosen": chosen.model.name,
        "within": not chosen.misses(config),
        "speed_up": chosen.speed_up,
        "megabytes": chosen.megabytes,
        "lost": lost[chosen.model.name],
        "hypervolume": hypervolume(points, (0.0, FURTHEST)),
        "times_off": [float(np.median(off)), max(off)] if off else None,
        "minutes": (time.monotonic() - began) / 60,
        "files": len(files),
        "plan": state["plan"],
        "prediction_error": state["prediction_error"],
    }


def recipe(given: argparse.Namespace, method: str, seed: int) -> Config:
    data = Data(train=given.train, eval=given.eval, rows=given.rows, max_length=given.max_length)
    return Config(
        model=given.model,
        data=data,
        stages=(
            Finetune(name="teacher", epochs=3, optimiser=Optimiser(learning_rate=1e-4)),
            Distill(
                losses=(SoftTargets(weight=1.0, temperature=2.0), HiddenStates(weight=1.0)),
                optimiser=Optimiser(learning_rate=2e-4),
            ),
            Quantize(),
        ),
        max_drop=given.max_drop,
        min_speedup=given.min_speedup,
        max_mb=given.max_mb,
        minutes=given.minutes,
        seed=seed,
        out=str(Path(given.out) / f"{method}-{seed}"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("model", "demo"), ("train", "demo"), ("eval", "demo"), ("out", "runs/searches")):
        parser.add_argument(f"--{name}", default=default)
    for name, value in (("max_drop", 1.0), ("min_speedup", 8.0), ("max_mb", None), ("minutes", 30.0)):
        parser.add_argument(f"--{name}", type=float, default=value)
    for name, value in (("rows", 6000), ("max_length", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    given = parser.parse_args()
    for seed in given.seeds:
        for method in given.methods:
            path = Path(given.out) / f"{method}-{seed}.json"
            if not path.is_file():
                found = row(recipe(given, method, seed), METHODS[method])
                path.write_text(json.dumps(found, indent=1) + "\n")
            found = json.loads(path.read_text())
            said = "within" if found["within"] else "beyond"
            print(
                f"{method} {seed}: {found['speed_up']:.1f} times as fast, {found['megabytes']:.1f} MB, "
                f"{found['lost']:+.1f} points lost, {said} the bounds; hypervolume {found['hypervolume']:.1f}; "
                f"times off by {found['times_off']}; {found['minutes']:.1f} minutes"
            )


if __name__ == "__main__":
    main()
