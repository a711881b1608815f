"""A table of the times of the parts of an encoder layer, measured with the runtime that will serve the model.

Whole models are timed, because a part alone would find other things in the caches: models in which every layer has h
heads and no neurons, or n neurons and no heads. What such a model takes beyond one without any parts, divided by the
number of layers, is the time of the part. The trade-off: a table costs as much as timing a dozen models.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bertjax.errors import UserError

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.measure.latency import Timing
    from bertjax.prune.costs import LatencyTable, Part
    from bertjax.text.examples import Examples

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
"""Fractions of the heads and of the neurons that are timed; times between two of them are interpolated."""


def measure_table(
    bundle: Bundle,
    examples: Examples,
    max_length: int,
    runtime: Literal["onnxruntime", "openvino", "jax"] = "onnxruntime",
    threads: int | None = 1,
    sample: int = 64,
    repeats: int = 7,
    notify: Callable[[str], None] = lambda message: None,
) -> LatencyTable:
    """The milliseconds of each part at batch 1, on a sample of the examples.

    Raises:
      UserError: The model cannot be pruned, or has no layers to time.
    """
    from bertjax.prune.costs import LatencyTable

    config = bundle.config
    if not config.depth_steps():
        raise UserError("the model has no layers, so there is nothing to time.")
    if config.retention or (config.exits and config.exits.exit_rule):
        raise UserError(
            "the model exits early or drops tokens, so the time of a part depends on the text; measure the parts of "
            "the model that it was made from."
        )
    heads, neurons = map(max, zip(*(step.shape for step in config.depth_steps()), strict=True))
    if not (heads and neurons):
        raise UserError(
            f"the model's largest layers have {heads} heads and {neurons} neurons, so one has nothing to time."
        )
    shapes = (
        {"base": (0, 0)} | {f"{n} heads": (n, 0) for n in grid(heads)} | {f"{n} neurons": (0, n) for n in grid(neurons)}
    )
    variants = ((name, variant(bundle, shape)) for name, shape in shapes.items())
    settings: dict[str, Any] = {"max_length": max_length, "threads": threads, "sample": sample, "repeats": repeats}
    timings = time_models(variants, runtime, examples, **settings, notify=notify)
    base = timings["base"].latency.batch_1.p50

    def of(part: Part, counts: list[int]) -> tuple[tuple[int, float], ...]:
        times = [(n, timings[f"{n} {part}"].latency.batch_1.p50) for n in counts]
        return ((0, 0.0), *rising([(n, (time - base) / len(config.depth_steps())) for n, time in times]))

    about = timings["base"]
    texts = f"{min(sample, len(examples.texts))} texts, at most {max_length} tokens, one at a time, {repeats} rounds"
    sizes = config.hidden_size, config.head_size
    machine = runtime, about.threads, about.device, texts, dict(about.versions)
    return LatencyTable(base, of("heads", grid(heads)), of("neurons", grid(neurons)), *sizes, *machine)


def time_models(
    models: Iterable[tuple[str, Bundle]], runtime: str, examples: Examples, **settings: Any
) -> dict[str, Timing]:
    """The times of models by name, each written for the runtime and timed in a process of its own, all taking turns.
    `settings` are those of `measure_latency`."""
    from bertjax.measure.latency import Candidate, measure_latency
    from bertjax.report.build import one_process_only

    with tempfile.TemporaryDirectory() as folder:
        candidates = {}
        for number, (name, bundle) in enumerate(models):  # a generator, so that one model at a time is in memory
            write_for(bundle, runtime, Path(folder) / str(number))
            candidates[name] = Candidate(runtime, Path(folder) / str(number))
        isolated = not one_process_only()
        return measure_latency(candidates, examples.texts, examples.pairs, isolated=isolated, **settings)


def grid(whole: int) -> list[int]:
    """The counts to time."""
    return sorted({max(1, round(share * whole)) for share in SHARES})


def rising(times: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The times with noise removed that would make a larger part cheaper than a smaller one."""
    longest, found = 0.0, []
    for count, time in times:
        longest = max(longest, time)
        found.append((count, longest))
    return found


def variant(bundle: Bundle, shape: tuple[int, int]) -> Bundle:
    """A model with this many heads and neurons in every layer. Its weights are random, on which the time does not
    depend."""
    from bertjax.model import init_params
    from bertjax.prune.surgery import check_prunable
    from bertjax.share.tying import with_layers

    check_prunable(bundle.config, bundle.params)
    names = {"num_attention_heads": shape[0], "intermediate_size": shape[1]}
    steps = tuple(dataclasses.replace(step, **names) for step in bundle.config.depth_steps())
    config = with_layers(bundle.config, steps)
    return dataclasses.replace(bundle, config=config, params=init_params(config, 0))


def write_for(bundle: Bundle, runtime: str, place: Path) -> None:
    """A model as a folder that the runtime opens; an exported one is not compared with JAX."""
    import json

    import bertjax
    from bertjax.export.folder import export_config, limit_tokenizer, write_export

    if runtime == "jax":
        bertjax.save(bundle, place)
        return
    place.mkdir()
    write_export(bundle, "onnx", place, False, "int8")
    (place / "config.json").write_text(json.dumps(export_config(bundle.config, "onnx", place)))
    assert bundle.tokenizer is not None
    bundle.tokenizer.save(place)
    limit_tokenizer(place, bundle.config.max_tokens)
