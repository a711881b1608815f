"""Every command that is printed for somebody to run is run here, on files as people have them: a folder with a blank in
its name, columns with blanks, pairs, German text, one text of 900 words."""

import dataclasses
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bertjax
from bertjax.distill.terms import SoftTargets
from bertjax.engine import commands
from bertjax.engine.command_line import parse
from bertjax.engine.log import Log
from bertjax.export import export
from bertjax.jobs.compress import Compression, run_stages
from bertjax.jobs.data import Text
from bertjax.jobs.next_steps import another_depth, next_steps, twice
from bertjax.jobs.report import Model
from bertjax.measure.latency import Latency, Percentiles, Timing
from bertjax.recipes.compress import Config
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.student import Student
from bertjax.verify.__main__ import main as verify
from tests.train.tiny import FILLER, write_model
from train import distill, predict

pytest.importorskip("onnxruntime", reason="an extra")

TEXTS = ("Ein großartiger Film", "a dull story, often", "Über Mütter; sehr 'gut'", " ".join(FILLER * 75))
LABELS = ("sehr gut", "schlecht")
COLUMNS = {"text": "Text des Kunden", "text_pair": "zweiter Text", "label": "Urteil (neu)"}


def table(path: Path, paired: bool, rows: int) -> Path:
    names = [COLUMNS["text"], *([COLUMNS["text_pair"]] if paired else []), COLUMNS["label"]]
    lines = [{n: TEXTS[(row + place) % 4] for place, n in enumerate(names[:-1])} for row in range(rows)]
    told = [line | {names[-1]: LABELS[row % 2]} for row, line in enumerate(lines)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in told), encoding="utf-8")
    return path


CONFIG = """
from bertjax.student import Student
from bertjax.recipes.compress import Config
from bertjax.recipes.distill import Distill
from bertjax.recipes.export import Export
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.quantize import Quantize

config = Config(stages=(Finetune(), Distill(student=Student(num_hidden_layers=1)), Quantize(), Export()))
plain = Config(stages=(Finetune(), Quantize(), Export()))
"""


def found(tmp_path: Path, paired: bool, which: str) -> tuple[Config, list[Model], Any]:
    """What a compression that a command line asked for has in its hands when it comes to its next steps."""
    place = tmp_path / "Daten (alt)"
    place.mkdir()
    (place / "mein config.py").write_text(CONFIG)
    head = {"architecture": "BertForSequenceClassification", "labels": LABELS, "num_hidden_layers": 3}
    teacher, out = write_model(place / "Modell", **head), place / "aus"
    columns = [f"--data.{name}={column}" for name, column in COLUMNS.items() if paired or name != "text_pair"]
    texts = table(place / "lernen 1.jsonl", paired, 32), table(place / "prüfen.jsonl", paired, 24)
    words = [f"--config={place / 'mein config.py'}:{which}", f"--model={teacher}", *columns, "--steps=2"]
    words += [f"--data.train={texts[0]}", "--data.eval", str(texts[1]), "--data.max-length=20", f"--out={out}"]
    config = parse(Config, words)
    commands.remember(config, words)
    bertjax.save(bertjax.load(teacher), out / "bundle")
    for name in ("teacher-onnx", "exported"):
        export(out / "bundle", "onnx", out / name)
    models = [Model("teacher", teacher), *(Model(name, out / name) for name in ("teacher-onnx", "exported"))]
    return config, models, Text.of(config.data).task()


@pytest.fixture
def timeless(monkeypatch) -> None:
    """Every model takes a millisecond."""
    both = Percentiles(1.0, 1.0)
    timing = Timing("onnxruntime", "cpu", 1, {}, Latency(both, both), 1000.0)
    monkeypatch.setattr(
        "bertjax.verify.comparison.measure_latency", lambda models, *_, **__: dict.fromkeys(models, timing)
    )


def printed(steps: list[tuple[str, str]]) -> dict[str, list[str]]:
    """The words of each command as a shell reads them, by what it is for."""
    return {what: shlex.split(command) for what, command in steps}


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True])
def test_the_next_steps_of_a_compression_run_as_they_are_printed(paired: bool, tmp_path: Path, timeless, capsys):
    config, models, task = found(tmp_path, paired, "config")
    steps = next_steps(config, models, task)
    words = printed(steps)
    assert list(words) == [
        "Measure the two exported files again",
        "Label text of your own",
        "Keep one more layer",
        "Train twice as long",
    ]
    with pytest.raises(SystemExit) as left:
        verify(words["Measure the two exported files again"][2:])
    assert (left.value.code, "accuracy" in capsys.readouterr().out) == (0, True)

    alone = printed(next_steps(config, [models[0], models[-1]], task))  # the first one's file could not be made
    assert list(alone) == list(words)[1:]

    before, _, after = dict(steps)["Label text of your own"].partition(" | ")
    said = subprocess.run(["sh", "-c", before], capture_output=True, text=True, check=True).stdout
    (tmp_path / "zeile.txt").write_text(said, encoding="utf-8")
    asked = parse(predict.Config, [*shlex.split(after)[2:], f"--input={tmp_path / 'zeile.txt'}"])
    predict.main(asked)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["label"] in LABELS

    deeper, longer = (parse(Config, words[what][2:]) for what in ("Keep one more layer", "Train twice as long"))
    assert [one.data for one in (deeper, longer)] == [config.data] * 2
    assert (deeper.stages[1].student.num_hidden_layers, deeper.steps, longer.steps) == (2, 2, 4)  # type: ignore[attr-defined]
    assert len({config.out, deeper.out, longer.out}) == 3
    assert deeper.model == config.model
    log, text = Log(Path(deeper.out), "deeper", 2, quiet=True), Text.of(deeper.data)
    two = dataclasses.replace(deeper, stages=deeper.stages[:2])
    made = run_stages(Compression(two, Path(deeper.out), text, text.task(), log, []))
    log.close()
    assert bertjax.load(made[-1].folder).config.depth == 2


@pytest.mark.slow
def test_without_a_student_one_of_half_the_layers_is_proposed_and_distilled(tmp_path: Path):
    config, models, task = found(tmp_path, True, "plain")
    words = printed(next_steps(config, models, task))["Distil into a student of half the layers"]
    asked = parse(distill.Config, [*words[2:], "--steps=2", "--batch_size=8"])
    distill.main(asked)
    assert bertjax.load(Path(asked.out) / "bundle").config.depth == 1
    assert asked.data == config.data


@pytest.mark.parametrize(
    ("has", "of", "proposed"), [(3, 6, 4), (2, 3, 1), (2, 2, 1), (1, 2, None), (1, 1, None), (6, 12, 7)]
)
def test_a_proposed_depth_is_one_that_the_teacher_has(has: int, of: int, proposed: int | None):
    assert another_depth(Distill(student=Student(num_hidden_layers=has)), of) == proposed


def test_where_layers_are_named_or_shared_no_other_depth_is_proposed():
    for student in (
        Student(pairing=(0, 2)),
        Student(groups=1),
        Student(as_is=True, init_from="demo"),
        Student(init_from="demo"),
    ):
        assert another_depth(Distill(student=student), 6) is None


@pytest.mark.parametrize(
    ("config", "stage", "expected"),
    [
        ({}, {}, {"p__epochs": 6.0}),
        ({}, {"epochs": 2}, {"p__epochs": 4}),
        ({}, {"steps": 50}, {"p__steps": 100}),
        ({"epochs": 1.5}, {"steps": 50}, {"epochs": 3.0}),
        ({"steps": 4}, {}, {"steps": 8}),
    ],
)
def test_twice_as_long_doubles_what_decides(config: dict[str, Any], stage: dict[str, Any], expected: dict[str, Any]):
    assert twice(Config(**config), Distill(losses=(SoftTargets(),), **stage), "p__") == expected


@dataclasses.dataclass(frozen=True)
class Odd:
    name: str = "x"
    labels: tuple[str, ...] = ()
    limit: int | None = 3
    fast: bool = False
    share: float = 1.0
    data: Data = Data()


def test_a_spelled_config_is_read_back_as_it_was():
    odd = Odd("two words; $(rm) \"'", ("sehr gut", "so, naja"), None, True, 1e-07, Data(train="a b.tsv", label="--x"))
    assert parse(Odd, shlex.split(commands.command_for("odd", odd))[2:]) == odd
    assert commands.command_for("odd", Odd()) == "bertjax odd"
    other = shlex.split(commands.command_for("odd", odd, name="y", data__label=None))[2:]
    assert parse(Odd, other) == dataclasses.replace(odd, name="y", data=Data(train="a b.tsv"))


def test_the_words_that_asked_for_a_config_are_kept_but_for_what_changes():
    config = Odd()
    commands.remember(config, ["--config", "my file.py", "--labels", "a", "b", "--limit=5"])
    assert commands.command_for("odd", config) == "bertjax odd --config 'my file.py' --labels a b --limit=5"
    assert (
        commands.command_for("odd", config, labels=("c", "d e"))
        == "bertjax odd --config 'my file.py' --limit=5 --labels c 'd e'"
    )
    assert (
        commands.command_for("odd", Odd(limit=7)) == "bertjax odd --limit=7"
    )  # another config, which nobody's words asked for
