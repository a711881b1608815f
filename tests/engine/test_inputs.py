"""A run belongs to the models and texts that it began from, not to their names."""

import ast
import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.engine.inputs import MODELS, changes, inputs
from bertjax.engine.log import Log
from bertjax.engine.record import begin, holds_work, read_record, update_record, write_record
from bertjax.errors import UserError
from bertjax.jobs import augment as jobs
from bertjax.jobs.export import export_once
from bertjax.measure.onnx import origin_of
from bertjax.params import map_with_path
from bertjax.recipes.augment import Augment
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.pretrain import Text
from bertjax.recipes.sharding import Sharding
from bertjax.storage import manifest
from bertjax.student import Student
from bertjax.text.reader import TextReader
from tests.train.tiny import ROOT, write_model, write_table
from train import (
    augment,
    calibrate,
    compare,
    compress,
    distill,
    exits,
    finetune,
    latency,
    pretrain,
    prune,
    quantize,
    ticket,
    vocabulary,
)

HEAD: dict[str, Any] = {"architecture": "BertForSequenceClassification", "labels": ("bad", "good")}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "model", **HEAD)
    shutil.copytree(folder / "model", folder / "other")
    write_table(folder / "train.tsv", 32)
    write_table(folder / "eval.tsv", 20, seed=1)
    return folder


@pytest.fixture
def work(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "work"))


def data(work: Path) -> Data:
    return Data(train=str(work / "train.tsv"), eval=str(work / "eval.tsv"), max_length=8)


def exchange(folder: Path) -> None:
    """Another model under the same name, saved as a model is."""
    model = bertjax.load(folder)
    params = map_with_path(lambda path, leaf: leaf + np.float32(0.5), model.params)
    bertjax.save(replace(model, params=params), folder)


def edit(file: Path) -> None:
    file.write_text(file.read_text().replace("\tgood", "\tbad", 1))


def work_done(out: Path) -> None:
    (out / "checkpoints" / "2").mkdir(parents=True)
    (out / "checkpoints" / "2" / "state").write_text("")


START = Student(init_from="OTHER")
RUNS: dict[str, tuple[Any, str, str]] = {
    "finetune": (finetune.Config(), "model", "model"),
    "finetune, a student's start": (finetune.Config(student=START), "other", "student.init_from"),
    "distill": (distill.Config(), "model", "model"),
    "distill, another teacher": (distill.Config(teachers=("OTHER",)), "other", "teachers.0"),
    "distill, the student's start": (distill.Config(student=START), "other", "student.init_from"),
    "prune": (prune.Config(teacher="OTHER"), "other", "teacher"),
    "ticket": (ticket.Config(), "model", "model"),
    "quantize": (quantize.Config(teacher="OTHER"), "other", "teacher"),
    "exits": (exits.Config(), "model", "model"),
    "latency": (latency.Config(), "model", "model"),
    "calibrate": (calibrate.Config(), "model", "model"),
    "vocabulary": (vocabulary.Config(), "model", "model"),
    "augment": (augment.Config(), "model", "model"),
    "pretrain": (pretrain.Config(), "model", "model"),
    "compress": (compress.Config(), "model", "model"),
    "compress, in a stage": (
        compress.Config(stages=(Augment(model="OTHER"), Distill(teachers=("OTHER",)))),
        "other",
        "stages.0.model",
    ),
    "compare": (compare.Config(trained="OTHER"), "other", "trained"),
}


def placed(value: Any, work: Path) -> Any:
    """A config whose models and texts are those of the test."""
    if isinstance(value, Data | Text):
        return replace(value, train=str(work / "train.tsv"), eval=str(work / "eval.tsv"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named: dict[str, Any] = {"model": str(work / "model")} if hasattr(value, "out") else {}
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.init}
        changed = {name: placed(field, work) for name, field in fields.items()}
        return replace(value, **{name: field for name, field in changed.items() if field is not fields[name]} | named)
    if isinstance(value, tuple):
        return tuple(placed(one, work) for one in value)
    return str(work / "other") if value == "OTHER" else value


@pytest.mark.parametrize("case", RUNS)
def test_another_model_under_the_same_name_is_refused_by_name(work: Path, case: str):
    config, folder, field = RUNS[case]
    config, out = placed(config, work), work / "out"
    assert begin(out, config) is False
    work_done(out)
    assert begin(out, config) is False
    exchange(work / folder)
    with pytest.raises(UserError, match=rf"started from other inputs(.|\n)*--{field} has other weights") as caught:
        begin(out, config)
    assert len(str(caught.value).splitlines()) <= 5


@pytest.mark.parametrize("case", ["finetune", "compress", "calibrate"])
@pytest.mark.parametrize("what", ["train", "eval"])
def test_a_finished_run_whose_text_changed_says_so(work: Path, case: str, what: str):
    config, out = placed(RUNS[case][0], work), work / "out"
    begin(out, config)
    update_record(out, result={"accuracy": 0.5})
    work_done(out)
    assert begin(out, config) is True
    edit(work / f"{what}.tsv")
    with pytest.raises(
        UserError, match=f"a finished run that started from other inputs(.|\n)*--data.{what} has other text"
    ):
        begin(out, config)
    (work / f"{what}.tsv").unlink()  # what is gone says nothing against what was made of it
    shutil.rmtree(work / "model")
    assert begin(out, config) is True


@pytest.mark.parametrize("part", ["config", "tokenizer"])
def test_labels_and_vocabulary_are_part_of_a_model(work: Path, part: str):
    out = work / "out"
    begin(out, config := placed(distill.Config(), work))
    work_done(out)
    model = bertjax.load(work / "model")
    if part == "config":
        bertjax.save(replace(model, config=model.config.replace(labels=("good", "bad"))), work / "model")
    else:
        bertjax.save(replace(model, tokenizer=None), work / "model")
        for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
            text = (work / "other" / name).read_text(encoding="utf-8")
            (work / "model" / name).write_text(text.replace("fine", "tall"), encoding="utf-8")
    with pytest.raises(UserError, match=f"--model has other {part}"):
        begin(out, config)


def test_a_card_and_a_report_make_no_other_model(work: Path):
    out = work / "out"
    begin(out, config := placed(finetune.Config(), work))
    work_done(out)
    manifest.put_text(work / "model", "README.md", "a card\n")
    manifest.put_text(work / "model", "report.json", "{}\n")
    assert begin(out, config) is False


def test_a_run_that_did_nothing_yet_begins_with_what_is_there_now(work: Path):
    out = work / "out"
    begin(out, config := placed(finetune.Config(), work))
    before = (read_record(out) or {})["inputs"]
    exchange(work / "model")
    assert begin(out, config) is False
    now = (read_record(out) or {})["inputs"]
    assert changes(before, now) == ["--model has other weights"]
    assert now.keys() == {"model", "data.train", "data.eval"}
    record = {name: value for name, value in (read_record(out) or {}).items() if name != "inputs"}
    write_record(out, record)  # as an older version left it
    work_done(out)
    assert begin(out, config) is False


def test_another_ticket_under_the_same_name_is_refused(work: Path):
    file, out = work / "ticket.safetensors", work / "out"
    file.write_bytes(b"one")
    begin(out, config := replace(placed(finetune.Config(), work), ticket=str(file)))
    work_done(out)
    assert begin(out, config) is False
    file.write_bytes(b"other")
    with pytest.raises(UserError, match="--ticket has other masks"):
        begin(out, config)


def test_what_prune_cut_out_is_work(tmp_path: Path):
    (tmp_path / "cut").mkdir()
    assert not holds_work(tmp_path)
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"")
    assert holds_work(tmp_path)


def test_every_field_that_takes_a_model_is_known():
    """By its own words: a field whose docstring offers hf:NAME."""
    found = set()
    for file in [*(ROOT / "bertjax" / "recipes").glob("*.py"), ROOT / "bertjax" / "student.py"]:
        if file.stem in ("evaluate", "predict"):  # which start no run that could be resumed
            continue
        for cls in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)):
            for field, said in zip(cls.body, cls.body[1:], strict=False):
                text = ast.unparse(said) if isinstance(said, ast.Expr) else ""
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and "hf:NAME" in text:
                    found.add(field.target.id)
    assert found
    assert found <= set(MODELS)


def test_texts_of_a_folder_and_names_that_are_no_files(work: Path):
    (work / "texts").mkdir()
    (work / "texts" / "one.txt").write_text("One.\n")
    asked = {"data": {"train": str(work / "texts"), "eval": "demo"}, "model": None, "student": {"init_from": "random"}}
    before = inputs(asked)
    assert before.keys() == {"data.train"}
    (work / "texts" / "two.txt").write_text("Two.\n")
    assert changes(before, inputs(asked)) == ["--data.train has other text"]
    assert inputs({"data": {"train": "tfds:glue/sst2/train", "eval": "nowhere.tsv"}, "model": "nowhere"}) == {}


def test_a_text_has_one_fingerprint_whoever_reads_it(work: Path):
    (work / "texts").mkdir()
    (work / "texts" / "one.txt").write_text("One.\n")
    for asked in (work / "train.tsv", work / "texts"):
        config = {"data": {"train": str(asked)}}
        assert inputs(config, TextReader()) == inputs(config)
    assert inputs({"data": {"train": str(work / "nowhere.tsv")}}, TextReader()) == {}


@pytest.mark.slow
def test_a_cut_distillation_does_not_go_on_with_another_teacher(work: Path, monkeypatch):
    config = distill.Config(
        model=str(work / "model"),
        data=data(work),
        steps=4,
        save_every=2,
        sharding=Sharding(1, 1),
        out=str(work / "out"),
    )

    event = Log.event

    def cut(log: Log, name: str, *given: Any, **about: Any) -> None:
        event(log, name, *given, **about)
        if name == "checkpoint":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "event", cut)
        with pytest.raises(KeyboardInterrupt):
            distill.main(config)
    shutil.move(work / "model", work / "first")
    shutil.move(work / "other", work / "model")
    exchange(work / "model")
    with pytest.raises(UserError, match="--model has other weights"):
        distill.main(config)
    shutil.rmtree(work / "model")
    shutil.move(work / "first", work / "model")
    distill.main(config)
    assert (work / "out" / "bundle" / "model.safetensors").is_file()


def test_augmented_parts_are_not_mixed(work: Path, monkeypatch):
    config = augment.Config(
        model=str(work / "model"), data=data(work), substitutes="neighbours", copies=2, out=str(work / "more")
    )
    monkeypatch.setattr(jobs, "PART", 4)
    written, write = [], jobs.write

    def dies(path: Path, text: str) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            augment.main(config)
    exchange(work / "model")
    with pytest.raises(UserError, match="--model has other weights"):
        augment.main(config)


def test_an_export_of_other_weights_is_made_anew(work: Path):
    folder = work / "exported"
    export_once(work / "model", folder)
    first = (folder / "onnx" / "model.onnx").stat().st_mtime_ns
    manifest.put_text(work / "model", "README.md", "a card\n")
    export_once(work / "model", folder)
    assert (folder / "onnx" / "model.onnx").stat().st_mtime_ns == first
    exchange(work / "model")
    export_once(work / "model", folder)
    assert (folder / "onnx" / "model.onnx").stat().st_mtime_ns != first
    assert manifest.read(folder).made_from == manifest.fingerprint(work / "model")
    assert origin_of(folder) == work / "model"


def test_records_are_json_whatever_was_measured(tmp_path: Path):
    nan, inf = float("nan"), float("inf")
    write_record(tmp_path, {"config": {}, "result": {"pearson": nan}, "costs": [(1.0, inf), {"deep": -inf}]})
    log = Log(tmp_path, "trying", 1, start=None)
    log.metrics(1, {"loss": 0.5, "undefined": nan})
    log.close()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    record = json.loads((tmp_path / "run.json").read_text(), parse_constant=refuse)
    assert record["result"] == {"pearson": None}
    assert record["costs"] == [[1.0, None], {"deep": None}]
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (line["loss"], line["undefined"]) == (0.5, None)
