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

import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from bertjax.engine.fields import Leaf, describe, fits, full_path, leaves, to_dict
from bertjax.engine.fields import replace as replace_fields
from bertjax.engine.inputs import MODELS, TEXTS
from bertjax.errors import UserError, nearest
from bertjax.storage.paths import as_path, write_text

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.learn.loss import Loss
    from bertjax.measure.runtimes import FileRuntimes
    from bertjax.prune.criteria import Criterion
    from bertjax.recipes.compare import Row
    from bertjax.recipes.stage import Stage
    from bertjax.report.early_exit import EarlyExitReport
    from bertjax.report.methods import MethodComparison
    from bertjax.report.models import Report
    from bertjax.report.run import RunReport
    from bertjax.report.token_ladder import TokenLadder
    from bertjax.student import Student
    from bertjax.verify import Failure, Measured

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

Numbers = TypeVar("Numbers", covariant=True)
"""What the report of a run holds."""
Model = Any
"""A folder, hf:NAME, demo, a `Bundle`, or the result of another run."""
Text = Any
"""A file, tfds:NAME/SPLIT, demo, or what `bertjax.text.sources.memory_table` reads: a list of texts, of pairs (text,
label) or of dicts, a dict of columns, or a table of pandas, Polars, Arrow or Hugging Face `datasets`."""
COMMANDS = {"add_exits": "exits"}
"""The commands of functions that are not called like them."""


@dataclass(frozen=True)
class Result(Generic[Numbers]):
    """A run, finished in its folder."""

    out: Path
    """The folder."""
    problem: str | None = None
    """What was missed or left out, in a sentence: a bound that no model keeps, or a stage that failed."""

    @property
    def scores(self) -> dict[str, float]:
        """The numbers that the run ended with, by metric or by model."""
        from bertjax.engine.record import read_record

        if result := (read_record(self.out) or {}).get("result"):
            return result
        return {row.name: row.score for row in getattr(self.report.numbers, "rows", ())}

    @cached_property
    def report(self) -> RunReport[Numbers]:
        """The report: `.table`, `.numbers`, `.show()`.

        Raises:
          UserError: This run wrote none; `evaluate` measures its model.
        """
        from bertjax.report.run import read_run_report

        return read_run_report(self.out)


@dataclass(frozen=True)
class Trained(Result[Numbers]):
    """A run that made a model."""

    @property
    def path(self) -> Path:
        """The folder of the model."""
        return self.out / "bundle"

    @cached_property
    def bundle(self) -> Bundle:
        """The model."""
        from bertjax.bundle import load

        return load(self.path)

    @property
    def exported(self) -> Path | None:
        """The folder with the exported file, where the last stage of a compression exports."""
        folder = self.out / "exported"
        return folder if folder.is_dir() else None


@dataclass(frozen=True)
class Exported:
    """An exported folder, which was compared with JAX."""

    path: Path
    file: Path
    """The model file in it."""
    distance: float
    """How far its outputs are from those in JAX, as a share of their size."""


@dataclass(frozen=True)
class Verdict:
    """What was measured of two models, and what of it breaks a bound."""

    measured: Measured
    failures: tuple[Failure, ...]

    @property
    def accepted(self) -> bool:
        """Whether every bound is met, and no claim of the new model is contradicted."""
        return not self.failures

    def __str__(self) -> str:
        from bertjax.verify.text import lines

        return "\n".join(lines(self.measured, self.failures))


Function = TypeVar("Function", bound=Callable[..., Any])


def config_class(command: str) -> type[Any]:
    return import_module(f"bertjax.recipes.{command}").Config


def explained(function: Function) -> Function:
    """The function with its arguments explained in the docstring, from the config of its command."""
    from bertjax.engine.help import everyday, short_docs

    config = config_class(COMMANDS.get(function.__name__, function.__name__))()
    docs = short_docs(config)
    shown = [path for path in everyday(config) if path != "out"]
    others = sorted({path.rpartition(".")[2] for path in docs} - {path.rpartition(".")[2] for path in shown} - {"out"})
    lines = [f"  {path.rpartition('.')[2]}: {docs[path]}" for path in shown]
    command = COMMANDS.get(function.__name__, function.__name__)
    function.__doc__ = "\n".join(
        [
            *(function.__doc__ or "").splitlines(),
            "",
            "Args:",
            *lines,
            "  out: The folder of the run. Default: runs/COMMAND-DIGEST, see bertjax.api.",
            "  config: What the other arguments change: a config, or NAME or FILE as for --config.",
            f"  more: More fields, which `bertjax {command} --help=all` explains: {', '.join(others)}.",
        ]
    )
    return function


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


# --- from arguments to a config ---------------------------------------------------------------------------------------


class Memory:
    """What was given in memory, and how it is written, by the names of the files and folders inside a run's folder.
    The names hold digests of the contents, so that equal arguments give equal configs."""

    def __init__(self) -> None:
        self.writers: dict[str, Callable[[Any], None]] = {}

    def text(self, role: str, source: Text) -> str:
        """The name of a source of text."""
        if isinstance(source, str | os.PathLike):
            return os.fspath(source)
        from bertjax.text.sources import memory_table

        columns = memory_table(source).columns
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        try:
            form = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=date_text)
            lines = "".join(f"{form.encode(row)}\n" for row in rows)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{role}: a cell cannot be stored ({error}); give columns of text, numbers and lists"
            ) from None
        name = f"given/{role}-{digest(lines)}.jsonl"
        self.writers[name] = partial(write_text, text=lines)
        return name

    def model(self, model: Model) -> str:
        """The name of a model."""
        if isinstance(model, Trained | Exported):
            return str(model.path)
        if isinstance(model, str | os.PathLike):
            return os.fspath(model)
        from bertjax.bundle import Bundle, save
        from bertjax.storage import manifest

        if not isinstance(model, Bundle):
            raise UserError(
                f"model is {repr(model)[:60]}; expected a folder, hf:NAME, demo, a Bundle, or the result of a run"
            )
        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder, "model"))
            name = f"given/model-{digest(manifest.fingerprint(Path(folder, 'model')))}"
        self.writers[name] = partial(save_once, model)
        return name

    def value(self, name: str, given: Any) -> Any:
        """The value of a field: models and texts by their names, other lists as tuples."""
        if name in TEXTS:
            return self.text(name, given)
        if name in (*MODELS, "against") and isinstance(given, list | tuple):
            named = [one if is_part(one) else self.model(one) for one in given]
            return tuple(named)
        if name in MODELS and not is_part(given):
            return self.model(given)
        return tuple(given) if isinstance(given, list) else given

    def write(self, out: Any) -> None:
        """Writes everything, unless it is there already."""
        for name, writer in self.writers.items():
            if not (out / name).exists():
                writer(out / name)

    def located(self, value: Any, out: str) -> Any:
        """The value of a field with the paths of what was written."""
        if isinstance(value, tuple):
            return tuple(self.located(one, out) for one in value)
        return os.path.join(out, value) if isinstance(value, str) and value in self.writers else value


def date_text(cell: Any) -> str:
    """A date or time as text, so that a column which nobody asked for is no obstacle.

    Raises:
      TypeError: Something else that JSON does not know.
    """
    if hasattr(cell, "isoformat"):
        return cell.isoformat()
    raise TypeError(f"{type(cell).__name__} {repr(cell)[:40]}")


def is_part(value: Any) -> bool:
    """Whether this is a stage, as `teacher` of `compare` may hold."""
    from bertjax.recipes.stage import Stage

    return isinstance(value, Stage)


def save_once(model: Bundle, folder: Any) -> None:
    from bertjax.bundle import save

    save(model, folder)


def run(command: str, result: type[Any], arguments: Mapping[str, Any]) -> Any:
    """Runs a command with the arguments of its function (its `locals()`), and returns the result."""
    from bertjax.engine.record import release_locks
    from bertjax.jobs.stages import Incomplete
    from bertjax.machine.allocator import keep_freed_memory

    given = {name: value for name, value in arguments.items() if name != "more" and value is not None}
    given |= arguments["more"]
    memory, out = Memory(), given.pop("out", None)
    start = started_from(command, given.pop("config", None))
    changes = {path: memory.value(name, value) for name, path, value in placed(command, start, given)}
    config = checked(start, changes)
    if out is None:
        settings = {name: value for name, value in to_dict(config).items() if name != "out"}
        out = f"runs/{command}-{digest([command, settings])}"
    out = os.fspath(out)
    config = replace(config, out=out)
    config = replace_fields(config, {path: memory.located(value, out) for path, value in changes.items()})
    memory.write(as_path(out))
    keep_freed_memory()
    problem = None
    try:
        main_of(command)(config)
    except Incomplete as left:
        problem = left.sentence
    finally:
        release_locks()
    return result(as_path(out), problem)


def main_of(command: str) -> Callable[[Any], None]:
    """The `main` of a command's script, found as `bertjax.cli` finds it."""
    from bertjax.engine.command_line import shipped_folder

    file = shipped_folder("train") / f"{command}.py"
    spec = importlib.util.spec_from_file_location(f"bertjax_command_{command}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def started_from(command: str, given: Any) -> Any:
    """The config that the arguments change: the defaults, that of a file, or the one given."""
    from bertjax.engine.command_line import load_config

    cls = config_class(command)
    if given is None:
        return cls()
    if isinstance(given, str | os.PathLike):
        return load_config(os.fspath(given), cls)
    if not isinstance(given, cls):
        raise UserError(f"config is {repr(given)[:60]}; expected a {cls.__module__}.Config, or its file or name")
    return given


def placed(command: str, config: Any, given: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Each argument with the path of its field in the config."""
    known, own = leaves(config), [one.name for one in fields(config) if one.init]
    found = []
    for name, value in given.items():
        path = name if name in own else full_path(name, known)
        if path is None or (path not in known and path not in own) or name == "compile_only":
            function = next((key for key, other in COMMANDS.items() if other == command), command)
            short = [other.rpartition(".")[2] for other in known]
            raise UserError(f"{function}() has no argument {name}{nearest(name, [*own, *short])}")
        found.append((name, path, value))
    return found


def checked(config: Any, changes: dict[str, Any]) -> Any:
    """The config with these fields, if they have the right types."""
    declared = {name: leaf.type for name, leaf in leaves(config).items()} | get_type_hints(type(config))
    for path, value in changes.items():
        if not has_type(value, declared[path]):
            raise UserError(f"{path.rpartition('.')[2]} is {value!r}; expected {describe(declared[path])}")
    return replace_fields(config, changes)


def has_type(value: Any, declared: Any) -> bool:
    """Whether a value fits its declared type, and the items of a tuple fit theirs."""
    if get_origin(declared) is not tuple:
        return fits(Leaf(declared, value))
    item, *rest = get_args(declared)
    return isinstance(value, tuple) and (rest != [...] or all(has_type(one, item) for one in value))


def digest(content: Any) -> str:
    """Twelve digits that tell contents apart."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
