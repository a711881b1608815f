"""The functions do what the commands do: the same folder, bit for bit, from lists and tables as from files."""

import inspect
import json
import sys
from datetime import date
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax import api
from bertjax.api import given
from bertjax.distill.terms import HardLabels, SoftTargets
from bertjax.engine.command_line import load_config
from bertjax.engine.help import everyday
from bertjax.errors import UserError
from bertjax.jobs.stages import Incomplete
from bertjax.measure.latency import Latency, Percentiles, Timing
from bertjax.recipes.compress import Config as Compression
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.report.methods import MethodComparison, method_rows, method_table
from bertjax.report.table import Table
from bertjax.report.write import write_report
from bertjax.text.sources import load_examples
from tests.report.test_comparison import GOLD, METHODS
from tests.train.tiny import weights, write_model, write_table

FUNCTIONS = (
    "compress",
    "finetune",
    "distill",
    "prune",
    "quantize",
    "add_exits",
    "drop_tokens",
    "calibrate",
    "evaluate",
    "compare",
)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a model and its text."""
    folder = tmp_path_factory.mktemp("api")
    write_model(folder / "model")
    for number, name in enumerate(("train", "eval", "held-out")):
        write_table(folder / f"{name}.tsv", 32 if number < 2 else 400, seed=number, filler=(10, 12))
    return folder


def pairs(file: Path) -> list[tuple[str, str]]:
    examples = load_examples(str(file))
    assert examples.labels is not None
    return list(zip(examples.texts, examples.labels, strict=True))


@pytest.fixture(scope="module")
def teacher(here: Path) -> api.Trained:
    return bertjax.finetune(
        here / "model", here / "train.tsv", here / "eval.tsv", out=here / "teacher", steps=3, batch_size=8
    )


def mistake(call: Any, *arguments: Any, **fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **fields)
    return str(caught.value)


@pytest.mark.slow
def test_a_list_trains_the_model_that_its_file_trains_and_the_command_too(here: Path, teacher: api.Trained, tmp_path):
    from tests.train import tiny

    data = [f"--{name}={here / name}.tsv" for name in ("train", "eval")]
    tiny.run(
        "finetune", f"--model={here / 'model'}", *data, f"--out={tmp_path / 'shell'}", "--steps=3", "--batch-size=8"
    )
    record = [json.loads((out / "run.json").read_text()) for out in (tmp_path / "shell", teacher.out)]
    assert record[0]["config"] == record[1]["config"]
    assert record[0]["data"] == record[1]["data"]
    listed = bertjax.finetune(
        bertjax.load(here / "model"),
        pairs(here / "train.tsv"),
        pairs(here / "eval.tsv"),
        out=tmp_path / "listed",
        steps=3,
        batch_size=8,
    )
    assert weights(listed.out) == weights(teacher.out)
    assert listed.scores == teacher.scores
    assert set(teacher.scores) == {"accuracy"}
    assert teacher.bundle.predict(["the film was great"]).labels[0] in ("good", "bad")
    config = json.loads((listed.out / "run.json").read_text())["config"]
    assert config["data"]["train"].startswith(str(listed.out / "given" / "train-"))
    assert Path(config["model"]).is_dir()


@pytest.mark.slow
def test_parts_are_objects_and_a_result_is_a_model(here: Path, teacher: api.Trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"train": here / "train.tsv", "eval": here / "eval.tsv", "steps": 2, "batch_size": 8}
    losses = [SoftTargets(temperature=2.0), HardLabels(0.1)]
    student = bertjax.distill(teacher, losses=losses, student=bertjax.Student(1), learning_rate=1e-4, **given)
    assert student.bundle.config.num_hidden_layers == 1
    config = json.loads((student.out / "run.json").read_text())["config"]
    assert [one["_type"] for one in config["losses"]] == ["bertjax.SoftTargets", "bertjax.HardLabels"]
    assert config["optimiser"]["learning_rate"] == 1e-4
    assert student.out.parent == Path("runs")
    before = (student.path / "model.safetensors").stat().st_mtime_ns
    again = bertjax.distill(teacher, losses=losses, student=bertjax.Student(1), learning_rate=1e-4, **given)
    assert again.out == student.out
    assert (again.path / "model.safetensors").stat().st_mtime_ns == before  # finished already
    other = bertjax.distill(teacher, losses=losses, student=bertjax.Student(1), learning_rate=2e-4, **given)
    assert other.out != student.out


@pytest.mark.slow
def test_each_job_runs_and_its_report_is_typed(here: Path, teacher: api.Trained, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bertjax.report.build.one_process_only", lambda: True)  # in this process: seconds, not minutes
    text: dict[str, Any] = {"train": here / "train.tsv", "eval": here / "eval.tsv"}
    given: dict[str, Any] = {**text, "steps": 2, "batch_size": 8}
    assert bertjax.prune(teacher, neurons=0.5, **given).bundle.config.layers
    assert bertjax.quantize(teacher, **text).bundle.config.quantization
    exits = bertjax.add_exits(teacher, **given)
    assert exits.bundle.config.exits
    assert exits.bundle.config.exits.after == (0,)
    assert bertjax.drop_tokens(teacher, shares=[0.5, 0.5], **given).bundle.config.retention
    early = bertjax.calibrate(exits, here / "held-out.tsv", here / "eval.tsv", bound=0.2, sample=2)
    assert "threshold" in early.report.table.headings
    found = bertjax.evaluate(teacher, against=[exits], **text).report
    assert found.numbers.rows[0].name == "teacher"
    assert found.table.column("model")[0] == "teacher"
    capsys.readouterr()
    found.show()
    shown = capsys.readouterr().out
    assert "teacher" in shown
    assert "bag of words" in shown
    assert "has no report" in mistake(lambda: teacher.report)


@pytest.mark.slow
def test_an_export_is_held_to_bounds(here: Path, teacher: api.Trained, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime", reason="an extra")
    both = Percentiles(1.0, 1.0)
    timing = Timing("onnxruntime", "cpu", 1, {}, Latency(both, both), 1000.0)
    name = "bertjax.verify.comparison.measure_latency"
    monkeypatch.setattr(name, lambda models, *_, **__: dict.fromkeys(models, timing))
    exported = bertjax.export(teacher, out=tmp_path / "onnx")
    assert exported.file == tmp_path / "onnx" / "onnx" / "model.onnx"
    assert exported.distance < 1e-4
    again = bertjax.export(teacher.bundle, out=tmp_path / "again")
    assert again.file.read_bytes() == exported.file.read_bytes()
    assert bertjax.load(tmp_path / "again-bundle").config == teacher.bundle.config
    verdict = bertjax.verify(exported, teacher, pairs(here / "eval.tsv"), max_drop=1, min_speedup=2)
    without = bertjax.verify(exported, teacher.bundle, here / "eval.tsv", max_drop=1)
    assert not verdict.accepted
    assert "refused: NEW is 1.00 times as fast as OLD" in str(verdict)
    assert len(verdict.failures) == len(without.failures) + 1  # three steps teach it to say one thing to all texts
    assert without.measured.new.score == verdict.measured.new.score
    assert "no argument txt; did you mean text?" in mistake(bertjax.verify, exported, teacher, "demo", txt="a")


def test_a_comparison_is_read_as_it_was_written(tmp_path):
    rows, best = method_rows("accuracy", GOLD, METHODS)
    about = ("classification of x", "accuracy", "cpu", 2, Percentiles(7.0, 15.0))
    written = MethodComparison(*about, tuple(rows), best, command="bertjax compare", teacher_cost="nothing")
    write_report(written, tmp_path)
    found = api.Result(tmp_path)
    assert found.report.table == method_table(written)
    assert found.scores["good"] == next(row.score for row in rows if row.name == "good")


def test_a_missed_bound_is_a_sentence_and_no_exit(here: Path, monkeypatch, tmp_path):
    def main(config: Any) -> None:
        raise Incomplete("no candidate keeps the bounds", 3)

    monkeypatch.setattr("bertjax.api.command.main_of", lambda command: main)
    kept = bertjax.compress(here / "model", max_drop=0.1, out=tmp_path / "out")
    assert kept.problem == "no candidate keeps the bounds"


@pytest.fixture
def made(monkeypatch) -> list[Any]:
    """The configs that the functions make, with nothing run."""
    configs = []
    monkeypatch.setattr("bertjax.api.command.main_of", lambda command: configs.append)
    return configs


def test_arguments_are_the_fields_of_the_command(made: list[Any], tmp_path):
    bertjax.compress("demo", "a.tsv", "b.tsv", max_drop=1.0, min_speedup=4, seed=3, max_length=64, out=tmp_path / "a")
    bertjax.compress(config="quickstart", stages=[Finetune(epochs=1), Distill(epochs=2)], out=tmp_path / "b")
    bertjax.compress(config=made[0], max_mb=20, out=tmp_path / "c")
    first, second, third = made
    assert (first.model, first.data.train, first.data.eval, first.data.max_length) == ("demo", "a.tsv", "b.tsv", 64)
    assert (first.max_drop, first.min_speedup, first.seed, first.out) == (1.0, 4, 3, str(tmp_path / "a"))
    assert second.stages == (Finetune(epochs=1), Distill(epochs=2))
    assert second.data == load_config("quickstart", Compression).data
    assert (third.max_drop, third.max_mb) == (1.0, 20)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("finetune", {"stpes": 3}, "finetune() has no argument stpes; did you mean steps?"),
        ("add_exits", {"metod": "joint"}, "add_exits() has no argument metod; did you mean method?"),
        ("finetune", {"learning_rat": 3}, "did you mean learning_rate?"),
        ("finetune", {"compile_only": "v5e:2x4"}, "no argument compile_only"),
        ("finetune", {"packed": "few"}, "packed is 'few'; expected true | false"),
        ("finetune", {"max_length": 2}, "expected at least 3 tokens"),
        ("prune", {"pattern": "globl"}, "pattern is 'globl'; expected global | matrix | row | 2:4"),
        ("distill", {"student": 3}, "student is 3; expected bertjax.student.Student"),
        ("distill", {"losses": [3]}, "expected"),
        ("compress", {"stages": [3]}, "stages is (3,); expected"),
        ("distill", {"teachers": "demo"}, "teachers is 'demo'; expected str, ..."),
        ("finetune", {"model": 3}, "model is 3; expected a folder, hf:NAME, demo, a Bundle, or the result of a run"),
        ("finetune", {"train": 3}, "cannot read 3: expected a file"),
        ("finetune", {"train": [{"text": "a", "label": {1}}]}, "train: a cell cannot be stored"),
        ("finetune", {"config": "quickstrat"}, 'no config file "quickstrat"; did you mean quickstart?'),
        ("finetune", {"config": 3}, "config is 3; expected a bertjax.recipes.finetune.Config"),
    ],
)
def test_a_mistake_names_what_would_have_been_right(made: list[Any], name, fields, said, tmp_path):
    assert said in mistake(getattr(bertjax, name), out=tmp_path / "out", **fields)
    assert made == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_everyday_flags_are_explained_and_the_first_arguments_are_the_same(name: str):
    function = getattr(api, name)
    config = given.config_class(given.COMMANDS.get(name, name))()
    first = ["model", "held_out", "eval"] if name == "calibrate" else ["model", "train", "eval"]
    assert list(inspect.signature(function).parameters)[:4] == [*first, "out"]
    for path in everyday(config):
        assert f"\n  {path.rpartition('.')[2]}: " in function.__doc__
    fields = {one.rpartition(".")[2] for one in given.leaves(config)} | set(vars(config)) | {"config", "more"}
    assert set(inspect.signature(function).parameters) <= fields


def test_packages_named_like_commands_can_be_called(made: list[Any], tmp_path):
    from bertjax.prune import Movement  # which makes the package an attribute of bertjax

    assert bertjax.prune.Movement is Movement  # pyright: ignore[reportFunctionMemberAccess]
    assert inspect.signature(bertjax.prune) == inspect.signature(api.prune)
    bertjax.prune("demo", heads=0.5, out=tmp_path / "out")
    assert made[0].heads == 0.5


class Frame(dict):
    """As much of a pandas DataFrame as is used."""

    def notna(self) -> "Frame":
        return self

    def astype(self, kind: type) -> "Frame":
        return self

    def where(self, mask: "Frame", other: None) -> "Frame":
        return self

    def to_dict(self, form: str = "") -> dict[str, Any]:
        return dict(self)


ARROW = pytest.importorskip("pyarrow").table({"text": ["good film", "bad film"], "label": ["pos", "neg"]})


class Dataset:
    """As much of a Hugging Face data set as is used."""

    features = {"text": SimpleNamespace(), "label": SimpleNamespace(names=["neg", "pos"])}  # noqa: RUF012

    def __getitem__(self, name: str) -> list[Any]:
        return {"text": ["good film", "bad film"], "label": [1, 0]}[name]


@pytest.mark.parametrize(
    "source",
    [
        [("good film", "pos"), ("bad film", "neg")],
        [{"text": "good film", "label": "pos"}, {"text": "bad film", "label": "neg"}],
        {"text": ["good film", "bad film"], "label": ["pos", "neg"]},
        Frame({"text": ["good film", "bad film"], "label": ["pos", "neg"]}),
        Dataset(),
        ARROW,
    ],
    ids=lambda source: type(source).__name__,
)
def test_text_in_memory_is_read_alike(source: Any):
    examples = load_examples(source)
    assert examples.texts == ["good film", "bad film"]
    assert examples.labels == ["pos", "neg"]


def test_numbers_of_numpy_are_labels_and_nan_is_a_missing_one():
    examples = load_examples([("good film", np.int64(1)), ("bad film", np.int64(0))])
    assert examples.labels == ["1", "0"]
    said = mistake(load_examples, [("good film", np.int64(1)), ("a film", float("nan"))])
    assert 'item 1, column "label": the label is missing' in said


def test_a_date_beside_the_text_is_stored_as_text():
    memory = given.Memory()
    [writer] = [memory.writers[memory.text("train", [{"text": "good film", "day": date(2020, 1, 2)}])]]
    assert writer.keywords["text"] == '{"text": "good film", "day": "2020-01-02"}\n'  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"train": Dataset(), "test": Dataset()}, "several data sets: train, test. Give one, as data['train']"),
        ({"text": ["a"], "label": []}, "columns have different lengths: text 1, label 0"),
    ],
)
def test_what_is_no_table_is_refused(source: Any, said: str):
    assert said in mistake(load_examples, source)


@pytest.fixture
def cell(monkeypatch) -> list[Any]:
    """What a notebook was given to show."""
    shown: list[Any] = []

    class Handle:
        def update(self, value: Any) -> None:
            shown.append(value._repr_html_())

    def display(value: Any, display_id: bool = False) -> Handle:
        shown.append(value._repr_html_() if display_id else value)
        return Handle()

    ipython, displays = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.__dict__["get_ipython"] = lambda: SimpleNamespace(kernel=None)
    displays.__dict__.update(display=display, Markdown=lambda text: ("Markdown", text), Image=lambda data: "Image")
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    return shown


def test_a_notebook_shows_progress_as_a_bar(cell: list[Any]):
    from bertjax.engine.log import Progress

    bar = Progress("training <the> model", 4, 0)
    for step in range(1, 5):
        bar.update(step, 8, 0.5)
    bar.close()
    assert 'training &lt;the&gt; model <progress value="0" max="4">' in cell[0]
    assert '<progress value="4" max="4"></progress> 4/4' in cell[-1]
    assert "loss 0.500" in cell[-1]


def test_a_notebook_shows_table_picture_and_sentences(cell: list[Any], tmp_path):
    from bertjax.report.write import display

    (tmp_path / "report.png").write_bytes(b"png")
    display(Table(("model",), (("teacher",),)), ["**int8** is smaller."], "int8 is kept", tmp_path / "report.png")
    said = ("Markdown", "- **int8** is smaller.\n\n**int8 is kept**")
    assert cell == [("Markdown", "| model |\n| ---: |\n| teacher |"), "Image", said]
