"""The commands as functions: text from a file, a list or a table in, a typed result out.

    import bertjax
    teacher = bertjax.finetune("demo", train=texts, eval=held_out, epochs=2)
    student = bertjax.distill(teacher, train=texts, eval=held_out)
    student.bundle.predict(["a quiet masterpiece"]).labels

A function makes the config of its command and calls the command's own `main`, so a notebook and a shell do the same.
Its arguments are the fields of that config, those of a group by their own name: `max_length` is `data.max_length`.
None leaves a field at its default. `config` is what the others change: a config, or what `--config` takes. Parts of a
training step are objects: `losses=[SoftTargets(temperature=2.0)]`.

The folder of a run is `out`. Without it the folder is runs/COMMAND-DIGEST, with a digest of all arguments: the same
call again continues or gives what is finished, and another call neither overwrites it nor is refused. What was given in
memory is first written to OUT/given. That costs a copy on the disk; in return the run can be continued from a shell,
and its record names files that are there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bertjax.api.command import explained, run
from bertjax.api.given import Memory, Model, Text, digest
from bertjax.api.results import Exported, Result, Trained, Verdict
from bertjax.errors import UserError, nearest
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from bertjax.learn.loss import Loss
    from bertjax.measure.runtimes import FileRuntimes
    from bertjax.prune.criteria import Criterion
    from bertjax.recipes.compare import Row
    from bertjax.recipes.stage import Stage
    from bertjax.report.early_exit import EarlyExitReport
    from bertjax.report.methods import MethodComparison
    from bertjax.report.models import Report
    from bertjax.report.token_ladder import TokenLadder
    from bertjax.student import Student

__all__ = [
    "Exported",
    "Model",
    "Result",
    "Text",
    "Trained",
    "Verdict",
    "add_exits",
    "calibrate",
    "compare",
    "compress",
    "distill",
    "drop_tokens",
    "evaluate",
    "export",
    "finetune",
    "prune",
    "quantize",
    "verify",
]


@explained
def compress(
    model: Model = None,
    train: Text = None,
    eval: Text = None,
    *,
    out: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    config: Any = None,
    max_drop: float | None = None,
    min_speedup: float | None = None,
    max_mb: float | None = None,
    minutes: float | None = None,
    stages: Sequence[Stage] | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    **more: Any,
) -> Trained[Report]:
    """Makes a model smaller by stages, and measures what each gained and cost: `.bundle`, `.report`, `.exported`.

    With a bound (max_drop, min_speedup, max_mb) smaller models are searched, and the fastest one within the bounds is
    kept. If there is none, the best one is kept, and `.problem` says so.
    """
    return run("compress", Trained, locals())


@explained
def finetune(
    model: Model = None,
    train: Text = None,
    eval: Text = None,
    *,
    out: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    config: Any = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    max_length: int | None = None,
    **more: Any,
) -> Trained[Any]:
    """Trains a model on labelled text: `.bundle`, `.scores`."""
    return run("finetune", Trained, locals())


@explained
def distill(
    model: Model = None,
    train: Text = None,
    eval: Text = None,
    *,
    out: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    config: Any = None,
    student: Student | None = None,
    losses: Sequence[Loss] | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    max_length: int | None = None,
    **more: Any,
) -> Trained[Any]:
    """Trains a smaller student to reproduce the outputs of `model`, the teacher: `.bundle`, `.scores`. The training
    text needs no labels."""
    return run("distill", Trained, locals())


@explained
def prune(
    model: Model = None,
    train: Text = None,
    eval: Text = None,
    *,
    out: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    config: Any = None,
    layers: float | None = None,
    heads: float | None = None,
    neurons: float | None = None,
    weights: float | None = None,
    speedup: float | None = None,
    criterion: str | Criterion | None = None,
    epochs: float | None = None,
    **more: Any,
) -> Trained[Any]:
    """Removes layers, heads and neurons or sets weights to zero, then trains what is left: `.bundle`, `.scores`."""
    return run("prune", Trained, locals())


@explained
def quantize(
    model: Model = None,
    train: Text = None,
    eval: Text = None,
    *,
    out: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    config: Any = None,
    activations: Literal["fixed", "token", "none"] | None = None,
    mean_bits: float | None = None,
    qat: Literal["off", "ste", "lsq"] | None = None,
    epochs: float | None = None,
    **more: Any,
) -> Trained[Any]:
    """Makes a model of integers, after training or during it: `.bundle`, `.scores`."""
    return run("quantize", Trained, locals())


@explained
def add_exits(
    model: Model = None,
    train: Text = None,
    eval: Text = None,
    *,
    out: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    config: Any = None,
    after: Sequence[int] | None = None,
    method: Literal["two_stage", "joint", "alternating", "self_distil"] | None = None,
    head: Literal["own_pooler", "shared_pooler", "shared"] | None = None,
    epochs: float | None = None,
    **more: Any,
) -> Trained[Any]:
    """Adds exits (classifiers after inner layers) and trains them: `.bundle`, `.scores`. Then `calibrate` it."""
    return run("exits", Trained, locals())


@explained
def drop_tokens(
    model: Model = None,
    train: Text = None,
    eval: Text = None,
    *,
    out: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    config: Any = None,
    flops: float | None = None,
    bound: float | None = None,
    shares: Sequence[float] | None = None,
    held_out: Text = None,
    epochs: float | None = None,
    **more: Any,
) -> Trained[TokenLadder]:
    """Lets fewer tokens go on after each layer, then trains: `.bundle`, `.scores`; with `bound`, `.report`."""
    return run("drop_tokens", Trained, locals())


@explained
def calibrate(
    model: Model = None,
    held_out: Text = None,
    eval: Text = None,
    *,
    out: str | os.PathLike[str] | None = None,
    config: Any = None,
    rule: Literal["entropy", "normalised_entropy", "max_probability", "margin", "patience"] | None = None,
    bound: float | None = None,
    **more: Any,
) -> Trained[EarlyExitReport]:
    """Chooses the early-exit threshold on held-out text, and measures it on other text: `.bundle`, `.report`."""
    return run("calibrate", Trained, locals())


@explained
def evaluate(
    model: Model = None,
    train: Text = None,
    eval: Text = None,
    *,
    out: str | os.PathLike[str] | None = None,
    config: Any = None,
    against: Sequence[Model] | None = None,
    **more: Any,
) -> Result[Report]:
    """Measures finished models side by side: `.report`. The first is the one that the others are compared with."""
    return run("evaluate", Result, locals())


@explained
def compare(
    model: Model = None,
    train: Text = None,
    eval: Text = None,
    *,
    out: str | os.PathLike[str] | None = None,
    config: Any = None,
    rows: Sequence[Row] | None = None,
    seeds: Sequence[int] | None = None,
    student: Student | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    **more: Any,
) -> Result[MethodComparison]:
    """Compares methods with one teacher, one student shape, one budget and several seeds: `.report`."""
    return run("compare", Result, locals())


def export(
    model: Model,
    to: Literal["onnx", "stablehlo", "huggingface", "litert"] = "onnx",
    *,
    out: str | os.PathLike[str] | None = None,
    weights: Literal["int8", "uint8"] = "int8",
    dequantise: bool = False,
) -> Exported:
    """Writes a model for another runtime, and compares its outputs with those in JAX.

    Args:
      model: A folder, hf:NAME, a `Bundle`, which is saved beside the export, or the result of a run.
      out: The folder. Default: runs/export-DIGEST.
      weights: For onnx, the type of 8-bit weights: int8, or uint8, which is exact on every processor and slower.
      dequantise: For huggingface, floating point in place of integers, which transformers cannot read.

    Raises:
      UserError: The model cannot be expressed there, or computes something else.
    """
    from bertjax.export.folder import export as write
    from bertjax.export.folder import exported_file

    memory = Memory()
    name = memory.model(model)
    folder = as_path(out if out is not None else f"runs/export-{digest([name, to, weights, dequantise])}")
    if name in memory.writers:
        beside = folder.with_name(f"{folder.name}-bundle")
        memory.writers[name](beside)
        name = str(beside)
    distance = write(name, to, str(folder), dequantise, weights)
    return Exported(folder, exported_file(to, folder), distance)


def verify(
    model: Model,
    against: Model,
    eval: Text,
    *,
    max_drop: float | None = None,
    min_speedup: float | None = None,
    max_mb: float | None = None,
    min_agreement: float | None = None,
    parity: Model = None,
    max_length: int = 512,
    threads: int = 1,
    repeats: int = 3,
    runtime: FileRuntimes = "onnxruntime",
    **task: Any,
) -> Verdict:
    """Measures a model and the one it is to replace, as they ship, and holds the first to bounds: `.accepted`,
    `.failures`; printed, the table and the causes.

    Args:
      model: The new one: an exported folder or a bundle, by its folder or as the result of a run.
      against: The old one.
      eval: Labelled text.
      max_drop: Points of the score that the new model may lose.
      min_speedup: Lower bound on the old model's median time for one text divided by the new one's.
      max_mb: Megabytes (10^6 bytes) that all files of the new model may take.
      min_agreement: Least percent of the texts with the old model's prediction: class, all tags of a text, or answer.
      parity: The bundle that the new model was exported from, if its folder does not name it.
      runtime: That of ONNX files; auto: for each the faster one here.
      task: text, text_pair, label, kind and metric, as in `bertjax.text.tasks.Task`.
    """
    from bertjax.engine.log import note
    from bertjax.text.tasks import Task
    from bertjax.verify import Bounds, compare, verdict

    known = ["text", "text_pair", "label", "kind", "metric"]
    if unknown := [name for name in task if name not in known]:
        raise UserError(f"verify() has no argument {unknown[0]}{nearest(unknown[0], known)}")
    memory = Memory()
    with tempfile.TemporaryDirectory() as folder:
        source = memory.text("eval", eval)
        bundle = None if parity is None else memory.model(parity)
        names = [memory.model(model), memory.model(against), *([bundle] if bundle else [])]
        memory.write(Path(folder))
        new, old, *origin = (Path(folder, name) if name in memory.writers else Path(name) for name in names)
        measured = compare(
            new,
            old,
            str(Path(folder, source)) if source in memory.writers else source,
            Task(**task),
            parity=origin[0] if origin else None,
            max_length=max_length,
            threads=threads,
            repeats=repeats,
            runtime=runtime,
            notify=note,
        )
    return Verdict(measured, tuple(verdict(measured, Bounds(min_speedup, max_drop, max_mb, min_agreement))))
