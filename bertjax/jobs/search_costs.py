"""What the trials of a search will cost: some shapes are timed as files, the costs of all are predicted, and those
beyond the bounds are left out.

Shapes that are timed are cut from the teacher without any correction, because times do not depend on the weights. The
processes take turns in groups, as each holds a model in memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bertjax.engine.log import note
from bertjax.errors import UserError
from bertjax.recipes.compress import Config
from bertjax.recipes.quantize import Quantize
from bertjax.search.costs import Measured, TimeModel, file_bytes
from bertjax.search.front import even_sample
from bertjax.search.space import FORMS, Form, Shape, cut, cut_shapes, grid
from bertjax.storage.paths import write_text
from bertjax.storage.typed_json import build, read_json

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.text.examples import Examples

TIMED = 20
"""Shapes that are timed."""
TOGETHER = 8
"""Processes that take turns in being timed."""
SLACK = 1.1
"""A trial may be predicted to exceed a bound by this factor, and is then measured."""

Cost = tuple[float, float, Form]
"""Milliseconds and megabytes of a shape in a form."""


class Trial(NamedTuple):
    """A shape with the forms within the bounds, the fastest first, and their predicted costs."""

    shape: Shape
    forms: tuple[Cost, ...]

    @property
    def ms(self) -> float:
        return self.forms[0][0]


def measured_times(
    path: Path, teacher: Bundle, recipe: Quantize, examples: Examples, max_length: int, runtime: str
) -> Measured:
    """The times of some shapes, measured once and stored in a file."""
    from bertjax.engine.hosts import on_main_process

    def measure() -> None:
        shapes = grid(teacher.config)
        weights = [sum(int(np.prod(one)) for one in cut_shapes(teacher, shape).values()) for shape in shapes]
        chosen = {0, len(shapes) - 1, *even_sample(weights, TIMED - 2, np.random.default_rng(0))}
        note(f"{len(chosen)} of {len(shapes)} shapes are timed, in floating point and in integers")
        found = time_shapes(
            [shapes[number] for number in sorted(chosen)], teacher, recipe, examples, max_length, runtime
        )
        write_text(path, json.dumps(dataclasses.asdict(found), indent=1) + "\n")

    if not path.is_file():
        on_main_process(measure)
    return build(Measured, read_json(path), str(path))


def time_shapes(
    shapes: Sequence[Shape], teacher: Bundle, recipe: Quantize, examples: Examples, max_length: int, runtime: str
) -> Measured:
    """The times of shapes in floating point and as the recipe rounds them, and of the teacher."""
    from bertjax.jobs.latency import time_models

    settings: dict[str, Any] = {"max_length": max_length, "threads": None, "sample": 64, "repeats": 3}

    def model(number: int) -> Bundle:
        bundle = cut(teacher, shapes[number // 2]) if number < 2 * len(shapes) else teacher
        return with_integers(bundle, recipe) if number % 2 else bundle

    found: dict[str, float] = {}
    for start in range(0, 2 * len(shapes) + 1, TOGETHER):
        numbers = range(start, min(start + TOGETHER, 2 * len(shapes) + 1))
        timings = time_models(((str(n), model(n)) for n in numbers), runtime, examples, **settings)
        found |= {name: one.latency.batch_1.p50 for name, one in timings.items()}
    floats, integers = (tuple((s, found[str(2 * i + k)]) for i, s in enumerate(shapes)) for k in (0, 1))
    return Measured(found[str(2 * len(shapes))], floats, integers)


def with_integers(bundle: Bundle, recipe: Quantize) -> Bundle:
    """The model as the recipe rounds it, with ranges of activations from -4 to 4: enough to time it."""
    from bertjax.model import build as build_model
    from bertjax.model.sites import integer_sites
    from bertjax.quantize.weights import quantise_weights
    from bertjax.quantized.formats import Activation, Quantization

    config, params = quantise_weights(bundle.config, bundle.params, recipe.weights, "min_max")
    assert config.quantization is not None
    one = Activation(recipe.bits, -4.0, 4.0) if recipe.activations == "fixed" else Activation(recipe.bits)
    sites = () if recipe.activations == "none" else integer_sites(build_model(config), params)
    rounded = Quantization(config.quantization.weights, tuple((site, one) for site in sites))
    return dataclasses.replace(bundle, config=config.replace(quantization=rounded), params=params)


def predicted(
    teacher: Bundle, recipe: Quantize, models: Mapping[bool, TimeModel], words: int, beside: int
) -> list[Trial]:
    """Every shape in every form.

    Args:
      words: Tokens of the training text.
      beside: Bytes beside the ONNX file in the teacher's exported folder; most of them are the words.
    """
    trials, vocabulary = [], teacher.config.vocab_size
    for shape in grid(teacher.config):
        sizes, forms = cut_shapes(teacher, shape), []
        for form in FORMS:
            rows = words if form.fewer_words else vocabulary
            size = file_bytes(sizes, form, rows, recipe.weights, shape.layers) + beside * rows / vocabulary
            forms.append((models[form.integers](shape), size / 1e6, form))
        trials.append(Trial(shape, tuple(sorted(forms))))
    return trials


def within(bounds: Config, teacher_ms: float, every: Sequence[Trial]) -> list[Trial]:
    """The trials with the forms whose predicted cost is within the bounds.

    Raises:
      UserError: There are none.
    """
    most = allowed_costs(bounds, teacher_ms)
    fitting = [Trial(s, tuple(one for one in forms if one[0] <= most[0] and one[1] <= most[1])) for s, forms in every]
    trials = [trial for trial in fitting if trial.forms]
    if not trials:
        raise UserError(out_of_reach(bounds, teacher_ms, [one for trial in every for one in trial.forms]))
    return trials


def allowed_costs(bounds: Config, teacher_ms: float) -> tuple[float, float]:
    """The most milliseconds and megabytes that a trial may be predicted to take."""
    ms = teacher_ms / bounds.min_speedup if bounds.min_speedup else np.inf
    return SLACK * ms, np.inf if bounds.max_mb is None else bounds.max_mb * SLACK


def out_of_reach(bounds: Config, teacher_ms: float, forms: Sequence[Cost]) -> str:
    """Why no trial is within the bounds, and the nearest that can be asked for."""
    small = [one for one in forms if one[1] <= allowed_costs(bounds, teacher_ms)[1]]
    asked = [f"--{name}={bound}" for name in ("min_speedup", "max_mb") if (bound := getattr(bounds, name)) is not None]
    nearest = f"the smallest has {min(one[1] for one in forms):.2f} MB"
    if small:
        of_size = " of that size" if len(asked) > 1 else ""
        nearest = f"the fastest{of_size} is {teacher_ms / min(small)[0]:.1f} times as fast"
    return f"no model is predicted to be within {' and '.join(asked)}: {nearest}. Ask for less, or give other stages."
