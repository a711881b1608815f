"""The search within bounds, from the teacher to the files that were measured.

    1. A part of the training text is held out: every choice is made on it, and none on the evaluation text.
    2. Some twenty shapes are timed, so that milliseconds and bytes of all are predicted, and those beyond the bounds
       are left out. Bounds that none can meet are refused here, before anything is trained.
    3. Rung by rung the shapes learn from the teacher's outputs, which are stored once. The best go on from their own
       weights.
    4. The last ones are stored in every form within the bounds, exported, and measured as they ship.

OUT/search.json says after every trial what was found, and OUT/front.png shows it. Both the plan and all scores are read
from there by a run that goes on after it was stopped; the trials are stages with folders of their own. The trade-off:
what is held out is not learned from.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertjax.engine.log import note
from bertjax.jobs.budget import Finalist, drop_of
from bertjax.jobs.data import Split, Text, evenly_spaced, open_model, predict_exported, predict_split, tokenizer_of
from bertjax.jobs.report import Model
from bertjax.jobs.search_costs import Trial, measured_times, predicted, within
from bertjax.jobs.search_text import searched_data
from bertjax.jobs.stages import Failure, attempt, run_in_order
from bertjax.recipes.distill import Distill
from bertjax.recipes.quantize import Quantize
from bertjax.recipes.stage import Context, Stage
from bertjax.recipes.vocabulary import Vocabulary
from bertjax.search.costs import TimeModel
from bertjax.search.front import Plan, even_sample, fronts, planned_by_steps, planned_by_time, promoted
from bertjax.search.space import Form, Shape, cut, plain
from bertjax.storage.paths import as_path, remove, write_text
from bertjax.storage.typed_json import build, read_json
from bertjax.student import Student

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.jobs.compress import Compression
    from bertjax.prune.second_order import Curves
    from bertjax.text.tasks import Task

END = 0.15
"""The part of the minutes for storing, exporting and measuring what was trained."""
PROBE_STEPS = 20
CALIBRATION = 512
"""Training examples for the second-order correction, as `bertjax prune` takes by default."""


class Search:
    """One search in the folder of a compression. `data` has the text to learn from and to choose on."""

    def __init__(self, job: Compression, data: Any, teacher: Model, exported: Model):
        self.job, self.config, self.out = job, job.config, job.out
        self.data, self.teacher, self.exported = data, teacher, exported
        self.text = Text(data, job.text.reader)
        self.failures: list[Failure] = job.failures
        stages = job.config.planned_stages()
        self.distil: Stage = next((stage for stage in stages if stage.student_shape is not None), Distill())
        self.quantise: Any = next((stage for stage in stages if stage.quantizes), Quantize())
        self.predictions: dict[str, tuple[float, float]] = {}
        """Predicted milliseconds and megabytes of files, by name."""
        self.state: dict[str, Any] = {"plan": None, "runtime": None, "scores": {}, "files": []} | read_json(
            self.out / "search.json"
        )

    # --- what all trials share ---------------------------------------------------------------------------------------

    @cached_property
    def bundle(self) -> Bundle:
        """The teacher, plain."""
        import bertjax

        return plain(bertjax.load(self.teacher.folder))

    @cached_property
    def task(self) -> Task:
        """The task, with its labels in the order of the teacher's outputs."""
        return open_model(str(self.teacher.folder), self.text.task(), 0)[1]

    @cached_property
    def held_out(self) -> Split:
        return self.text.held_out(self.task, tokenizer_of(self.bundle))

    @cached_property
    def learned(self) -> Split:
        return self.text.training(self.task, tokenizer_of(self.bundle), labelled=False)

    @cached_property
    def curves(self) -> Curves:
        """What the removal of heads and neurons costs, in every layer of the teacher."""
        from bertjax.prune.second_order import input_products, removal_curves

        batches = evenly_spaced(self.learned.encoded, CALIBRATION)
        note("second-order correction: the inputs of every layer are read")
        products = input_products(self.bundle.model, self.bundle.params, batches)
        return removal_curves(self.bundle.config, self.bundle.params, products)

    @cached_property
    def teacher_answers(self) -> tuple[Any, Any]:
        """The teacher's predictions on the held-out text, and the labels."""
        return predict_split(self.bundle, self.held_out)

    @cached_property
    def runtime(self) -> str:
        """The runtime that files are timed in; if it is to be found, the faster one for the teacher's."""
        from bertjax.measure.faster import choose_runtime

        texts, length = self.held_out.examples, self.data.max_length
        given = self.state["runtime"] or self.config.runtime
        choice = choose_runtime("teacher", self.exported.folder, given, texts.texts, texts.pairs, max_length=length)
        self.write(runtime=choice.runtime)
        return choice.runtime

    def write(self, **found: Any) -> None:
        """Adds to what is known, in OUT/search.json."""
        from bertjax.engine.hosts import on_main_process

        self.state |= found
        text = json.dumps(self.state, indent=1) + "\n"
        on_main_process(lambda: write_text(self.out / "search.json", text))

    # --- costs -------------------------------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """The trials whose predicted cost is within the bounds.

        Raises:
          UserError: There are none.
        """
        from bertjax.measure.cost import stored_bytes
        from bertjax.share.vocabulary import used_tokens
        from bertjax.verify.folder import shipped_bytes

        timed = self.bundle, self.quantise, self.held_out.examples, self.data.max_length, self.runtime
        measured = measured_times(self.out / "latency.json", *timed)
        models = {False: TimeModel(measured.floats), True: TimeModel(measured.integers)}
        errors = {integers: model.error() for integers, model in models.items()}
        self.write(prediction_error={"float": errors[False], "int8": errors[True]})
        note(f"predicted times miss those of other shapes by {errors[False]:.0%}, in integers by {errors[True]:.0%}")
        texts = [*self.learned.examples.texts, *(self.learned.examples.pairs or ())]
        words = len(used_tokens(tokenizer_of(self.bundle), texts))
        beside = shipped_bytes(self.exported.folder) - stored_bytes(self.exported.folder)
        every = predicted(self.bundle, self.quantise, models, words, beside)
        trials = within(self.config, measured.teacher, every)
        note(f"{len(trials)} of {len(every)} shapes are predicted to be within the bounds")
        return trials

    # --- rungs -------------------------------------------------------------------------------------------------------

    def folder(self, shape: Shape) -> Path:
        return self.out / "stages" / shape.name

    def started(self, shape: Shape) -> str:
        """The folder of a shape as it begins: cut out of the teacher."""
        import bertjax
        from bertjax.engine.hosts import on_main_process

        folder = self.folder(shape) / "cut"
        if not (folder / "config.json").is_file():
            on_main_process(lambda: bertjax.save(cut(self.bundle, shape, self.curves), folder))
        return str(folder)

    def trained(self, start: str, steps: int, out: Path) -> Path:
        """The folder of a model that learned from the teacher for so many steps."""
        import jax

        student = Student(init_from=start, as_is=True)
        stage = self.distil.with_training(steps=steps, epochs=None).with_student(student)
        outputs = str(self.out / "stages" / "teacher-outputs")
        stage.run(Context(str(self.teacher.folder), self.data, self.job.text.reader, str(out), outputs=outputs))
        remove(out / "checkpoints")
        jax.clear_caches()  # the programs of one shape are of no use to the next, and take memory
        return out / "bundle"

    def plan(self, trials: Sequence[Trial], began: float) -> Plan:
        """The plan of this search: made once, then read."""
        if self.state["plan"]:
            return build(Plan, self.state["plan"], "the plan in search.json")
        if self.config.minutes is None:
            rows, batch = len(self.learned.encoded), getattr(self.distil, "batch_size", 32)
            found = planned_by_steps(len(trials), self.distil.planned_steps(rows) or -(-rows // batch))
        else:
            setup, step = self.pace(trials)
            left = 60 * self.config.minutes * (1 - END) - (time.monotonic() - began)
            found = planned_by_time(len(trials), left, setup, step)
        self.write(plan=dataclasses.asdict(found))
        return found

    def pace(self, trials: Sequence[Trial]) -> tuple[float, float]:
        """Seconds before the first step and of a step: the mean of the cheapest and the dearest trial."""
        from bertjax.engine.log import worked_seconds
        from bertjax.engine.record import read_record

        assert self.curves  # made once, before any trial is timed
        paces = []
        ends = min(trials, key=lambda one: one.ms), max(trials, key=lambda one: one.ms)
        for number, trial in enumerate(ends):
            folder, began = self.out / "stages" / f"probe-{number}", time.monotonic()
            self.score(self.trained(self.started(trial.shape), PROBE_STEPS, folder))
            once = ((read_record(folder) or {}).get("teacher_seconds") or 0.0) if number == 0 else 0.0
            worked = worked_seconds(folder)
            paces.append((time.monotonic() - began - worked - once, worked / PROBE_STEPS))
            remove(folder)
        setup, step = np.mean(paces, axis=0).tolist()
        return max(setup, 0.0), step

    def rungs(self, trials: Sequence[Trial], plan: Plan) -> list[Trial]:
        """The trials that were trained to the end. Everything about the others but their scores is deleted."""
        costs = [trial.ms for trial in trials]
        left = [trials[i] for i in even_sample(costs, plan.trials[0], np.random.default_rng(self.config.seed or 0))]
        for rung, steps in enumerate(plan.steps):
            if rung:
                drops = np.array([self.scores(trial.shape)[-1]["drop"] for trial in left])
                ranks = promoted(np.array([t.ms for t in left]), drops, plan.trials[rung], self.config.max_drop)
                chosen = [left[i] for i in ranks]
                for lost in left:
                    if lost not in chosen and not self.failures:  # what failed may return and change the order
                        remove(self.folder(lost.shape))
                left = chosen
            tried = [trial for trial in left if self.tried(trial, rung, steps)]
            if not tried:
                raise self.failures[-1].error
            left = tried
            self.__dict__.pop("curves", None)  # hundreds of megabytes, which only the first rung needs
            self.draw(left)
        return left

    def tried(self, trial: Trial, rung: int, steps: int) -> bool:
        """Whether the trial went through the rung: it is trained from where it was, and scored, unless that was done
        before."""
        name, folder = trial.shape.name, self.folder(trial.shape)
        if len(self.scores(trial.shape)) > rung:
            return True
        self.job.log.event("trial", rung, name=name)

        def work() -> dict[str, Any]:
            start = str(folder / f"rung-{rung - 1}" / "bundle") if rung else self.started(trial.shape)
            return self.score(self.trained(start, steps, folder / f"rung-{rung}"))

        if (found := attempt(name, folder, work, self.failures)) is None:
            return False
        remove(folder / (f"rung-{rung - 1}" if rung else "cut"))
        ms, megabytes, _ = trial.forms[0]
        record = {"rung": rung, "steps": steps, "predicted_ms": ms, "predicted_mb": megabytes, **found}
        scores = self.state["scores"]
        self.write(scores=scores | {name: [*scores.get(name, []), record]})
        note(f"rung {rung}, {name}: {ms:.2f} ms predicted, {found['drop']:+.1f} points lost")
        return True

    def scores(self, shape: Shape) -> list[dict[str, Any]]:
        """What each rung found about a shape."""
        return self.state["scores"].get(shape.name, [])

    def score(self, bundle: Path) -> dict[str, Any]:
        """The score of a model on the held-out text, with its interval, and what it lost against the teacher."""
        import bertjax

        answers, labels = predict_split(bertjax.load(bundle), self.held_out)
        return drop_of(self.held_out.encoded.task.metric, self.teacher_answers[0], answers, labels)

    def draw(self, left: Sequence[Trial]) -> None:
        """Marks the front of the latest scores, in OUT/search.json and as OUT/front.png."""
        from bertjax.engine.hosts import on_main_process
        from bertjax.report.plot import draw_front

        latest = {name: records[-1] for name, records in self.state["scores"].items()}
        points = np.array([[one["predicted_ms"], one["drop"]] for one in latest.values()])
        front = [name for name, rank in zip(latest, fronts(points), strict=True) if rank == 0]
        self.write(front=front, going_on=[trial.shape.name for trial in left])
        drawn = [(ms, -drop, name in front) for name, (ms, drop) in zip(latest, points.tolist(), strict=True)]
        of_files = np.array([[one["ms"], one["drop"]] for one in self.state["files"]]).reshape(-1, 2)
        files = [
            (one["ms"], -one["drop"], "" if rank else one["name"])
            for one, rank in zip(self.state["files"], fronts(of_files), strict=True)
        ]
        on_main_process(lambda: draw_front(drawn, files, self.config.max_drop, self.out / "front.png"))

    # --- files -------------------------------------------------------------------------------------------------------

    def models(self, left: Sequence[Trial]) -> list[Model]:
        """Every trained shape in every form within the bounds, and what the user's own candidates make, exported."""
        made: list[Model] = []
        for trial in left:
            for ms, megabytes, form in trial.forms:
                name = trial.shape.name + form.parts
                self.predictions[f"{name}-onnx"] = ms, megabytes
                work = partial(self.stored, trial.shape, form, name)
                made += [one] if (one := attempt(name, self.folder(trial.shape), work, self.failures)) else []
        for number, stages in enumerate(self.config.candidates, start=1):
            name = f"candidate-{number}-{stages[-1].name}"
            work = partial(self.own, stages, name)
            made += [one] if (one := attempt(name, self.out / "stages" / name, work, self.failures)) else []
        return made

    def stored(self, shape: Shape, form: Form, name: str) -> Model:
        """A trained shape in a form, exported."""
        last = len(self.state["plan"]["steps"]) - 1
        folder = self.folder(shape)
        start = str(folder / f"rung-{last}" / "bundle")
        context = Context(start, self.data, self.job.text.reader, "", finetuned=str(self.teacher.folder))
        stages: dict[str, Stage] = {"words": Vocabulary()} if form.fewer_words else {}
        if form.integers:
            rules = tuple(form.rules(self.quantise.weights))
            stages[form.parts.removeprefix("-")] = dataclasses.replace(self.quantise, weights=rules)
        for part, stage in stages.items():
            context = context._replace(out=str(folder / part))
            context = context._replace(model=str(stage.run(context).bundle))
        return self.export(context.model, name)

    def own(self, stages: Sequence[Stage], name: str) -> Model:
        """The result of a user's own stages, which begin with the teacher."""
        context = Context(str(self.teacher.folder), self.data, self.job.text.reader, str(self.out / "stages" / name))
        done = run_in_order(stages, context)
        folder = str(done[-1].result.bundle)
        return Model(name, as_path(folder)) if stages[-1].exports else self.export(folder, name)

    def export(self, folder: str, name: str) -> Model:
        from bertjax.engine.hosts import on_main_process
        from bertjax.jobs.export import export_once

        target = self.out / "stages" / f"{name}-onnx" / "bundle"
        on_main_process(lambda: export_once(folder, target))
        return Model(f"{name}-onnx", target)

    def finalists(self, models: Sequence[Model]) -> list[Finalist]:
        """The exported models as they were measured on the held-out text; those that cannot be scored are left out."""
        if not {one["name"] for one in self.state["files"]} >= {model.name for model in models}:
            self.write(files=self.measured_files(models))
        named = {model.name: model for model in models}
        numbers = ("speed_up", "drop", "error", "mb")
        files = [one for one in self.state["files"] if one["name"] in named]
        return [Finalist(named[one["name"]], *(one[name] for name in numbers)) for one in files]

    def measured_files(self, models: Sequence[Model]) -> list[dict[str, Any]]:
        """Milliseconds, megabytes, and score and loss against the exported teacher, of every model."""
        from bertjax.measure.latency import Candidate, measure_latency
        from bertjax.report.build import one_process_only
        from bertjax.verify.folder import shipped_bytes

        before, labels = self.answers(self.exported)
        metric, found = self.held_out.encoded.task.metric, {}
        for model in models:
            answered = attempt(model.name, model.folder.parent, partial(self.answers, model), self.failures)
            if answered is not None:
                found[model] = drop_of(metric, before, answered[0], labels)
        if not found:
            raise self.failures[-1].error
        candidates = {one.name: Candidate(self.runtime, one.folder) for one in (self.exported, *found)}
        texts, length = self.held_out.examples, self.data.max_length
        isolated = not one_process_only()
        timings = measure_latency(candidates, texts.texts, texts.pairs, max_length=length, repeats=5, isolated=isolated)
        ms = {name: one.latency.batch_1.p50 for name, one in timings.items()}
        whole, unknown = ms[self.exported.name], (None, None)
        known = {model: self.predictions.get(model.name, unknown) for model in found}
        if off := [abs(guessed / ms[m.name] - 1) for m, (guessed, _) in known.items() if guessed is not None]:
            note(f"the times of {len(off)} files were predicted to within {np.median(off):.0%}, {max(off):.0%} at most")
        return [
            {
                "name": m.name,
                "ms": ms[m.name],
                "speed_up": whole / ms[m.name],
                "mb": shipped_bytes(m.folder) / 1e6,
                **dict(zip(("predicted_ms", "predicted_mb"), known[m], strict=True)),
                **one,
            }
            for m, one in found.items()
        ]

    def answers(self, model: Model) -> tuple[Any, Any]:
        """An exported model's predictions on the held-out text, and the labels."""
        from bertjax.storage.paths import local
        from bertjax.text.tokenizer import Tokenizer

        split = self.text.held_out(self.task, Tokenizer.from_folder(local(model.folder)))
        return predict_exported(model.folder, split)


def search(job: Compression, kind: type[Search] = Search) -> tuple[list[Model], list[Finalist]]:
    """The teacher and the exported teacher, and all files that the search made and measured on held-out text. `kind` is
    what searches."""
    from bertjax.machine.memory import memory_cap

    with memory_cap(job.config.max_memory):
        return searched(job, kind)


def searched(job: Compression, kind: type[Search]) -> tuple[list[Model], list[Finalist]]:
    """`search`, under the cap on memory."""
    from bertjax.jobs.compress import exported, teacher_of

    began = time.monotonic()
    data = searched_data(job.config, job.text, job.task, job.out)
    teacher = teacher_of(job._replace(config=dataclasses.replace(job.config, data=data)))
    one = kind(job, data, teacher, exported(job, teacher))
    warn_of_known_text(one)
    trials = one.trials()
    plan = one.plan(trials, began)
    note(plan_text(plan, len(one.held_out.examples)))
    left = one.rungs(trials, plan)
    finalists = one.finalists(one.models(left))
    one.draw(left)
    return [teacher, one.exported], finalists


def warn_of_known_text(one: Search) -> None:
    """Says so if the teacher is significantly better on the held-out text than on the evaluation text."""
    from bertjax.metrics.uncertainty import score_interval

    split = one.job.text.held_out(one.task, tokenizer_of(one.bundle))
    metric = split.encoded.task.metric
    held, other = (
        score_interval(metric, *one.teacher_answers),
        score_interval(metric, *predict_split(one.bundle, split)),
    )
    if held[0] > other[1]:
        note(
            f"warning: the teacher's {metric} is {held[0]:.3f} or more on the held-out text and {other[1]:.3f} or less "
            "on the evaluation text. It was probably trained on the former, and what others lose there is "
            "overestimated: give --held_out."
        )


def plan_text(plan: Plan, held_out: int) -> str:
    """The plan in a sentence."""
    minutes = plan.minutes or (None,) * len(plan.steps)
    rows = [
        f"{count} trials for {steps:,} steps each" + (f" ({of:.1f} minutes)" if of is not None else "")
        for count, steps, of in zip(plan.trials, plan.steps, minutes, strict=True)
    ]
    return f"to do: {', then '.join(rows)}; the choice is made on {held_out} held-out examples"
