"""Every kind of task goes the whole way: files as people have them, fine-tuning, distillation, predictions."""

import dataclasses
import json
from pathlib import Path

import pytest

import bertjax
from bertjax.distill.terms import (
    AttentionScores,
    HardLabels,
    HiddenStates,
    LastHiddenState,
    PatientStates,
    Relations,
    SoftTargets,
)
from bertjax.errors import UserError
from bertjax.recipes.data import Data
from bertjax.student import Student
from tests.train.tiny import BAD, GOOD, metrics, write_model
from train import calibrate, distill, finetune

PAIRS = [(f"the film a {good}", f"its cast {bad}") for good in GOOD for bad in BAD]


def classification_of_pairs(path: Path) -> dict:
    rows = [f"{a}\t{b}\t{'same' if i % 3 else 'other'}" for i, (a, b) in enumerate(PAIRS)]
    path.with_suffix(".tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]) + "\n")
    return {"train": path.with_suffix(".tsv")}


def regression(path: Path) -> dict:
    rows = [f"{a}\t{b}\t{i % 6 * 0.9:.2f}" for i, (a, b) in enumerate(PAIRS)]
    path.with_suffix(".tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    return {"train": path.with_suffix(".tsv"), "kind": "regression"}


def multi_label(path: Path) -> dict:
    rows = [{"text": f"{a} {b}", "label": [["warm"], ["cold", "warm"], []][i % 3]} for i, (a, b) in enumerate(PAIRS)]
    path.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return {"train": path.with_suffix(".jsonl"), "kind": "multi_label"}


def tokens(path: Path) -> dict:
    blocks = ["\n".join(f"{word} {'B-X' if word in GOOD else 'O'}" for word in f"{a} {b}".split()) for a, b in PAIRS]
    path.with_suffix(".conll").write_text("\n\n".join(blocks) + "\n")
    return {"train": path.with_suffix(".conll")}


def qa(path: Path) -> dict:
    questions = [
        {
            "context": f"{a} {b}",
            "qas": [
                {"id": str(i), "question": "the cast", "answers": [{"text": "film", "answer_start": a.index("film")}]}
            ],
        }
        for i, (a, b) in enumerate(PAIRS)
    ]
    path.with_suffix(".json").write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": questions}]}))
    return {"train": path.with_suffix(".json")}


def squad2(path: Path) -> dict:
    """Every second question has no answer."""
    file = qa(path)["train"]
    content = json.loads(file.read_text())
    for paragraph in content["data"][0]["paragraphs"][::2]:
        paragraph["qas"][0] |= {"answers": [], "is_impossible": True}
    file.write_text(json.dumps(content | {"version": "v2.0"}))
    return {"train": file}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [classification_of_pairs, regression, multi_label, tokens, qa, squad2])
def test_a_kind_of_task_is_trained_distilled_and_answered(kind, tmp_path: Path):
    model = write_model(tmp_path / "model")
    fields = kind(tmp_path / "data")
    data = Data(**{**fields, "train": str(fields["train"]), "eval": str(fields["train"]), "max_length": 16})
    common = {"data": data, "steps": 2, "batch_size": 8}
    finetune.main(finetune.Config(model=str(model), out=str(tmp_path / "teacher"), **common))
    losses = (HardLabels(), SoftTargets(), HiddenStates())
    teacher, student = str(tmp_path / "teacher" / "bundle"), Student(num_hidden_layers=1)
    distill.main(distill.Config(model=teacher, out=str(tmp_path / "student"), student=student, losses=losses, **common))
    last = [line for line in metrics(tmp_path / "student") if "loss" in line][-1]
    assert {"loss/0_HardLabels", "loss/1_SoftTargets", "loss/2_HiddenStates"} <= last.keys()
    bundle = bertjax.load(tmp_path / "student" / "bundle")
    texts, pairs = zip(*PAIRS[:3], strict=True)
    if kind is tokens:
        predicted = bundle.predict(list(texts))
        assert [len(tags) for tags in predicted.labels] == [len(text.split()) for text in texts]
    elif kind is multi_label:
        assert all(set(names) <= {"warm", "cold"} for names in bundle.predict(list(texts)).labels)
    else:
        predicted = bundle.predict(list(texts), list(pairs))
        assert len(predicted.labels) == 3
        assert {"regression": float}.get(kind.__name__, str) is type(predicted.labels[0])


@pytest.mark.slow
def test_the_threshold_of_no_answer_is_chosen_kept_and_forgotten(tmp_path: Path):
    held_out = squad2(tmp_path / "held-out")["train"]
    other = tmp_path / "other.json"
    other.write_text(held_out.read_text().replace("the cast", "the film"))
    data = Data(train=str(held_out), eval=str(other), max_length=16)
    model = write_model(tmp_path / "model")
    finetune.main(finetune.Config(model=str(model), data=data, steps=2, batch_size=8, out=str(tmp_path / "tuned")))
    tuned, calibrated = str(tmp_path / "tuned" / "bundle"), str(tmp_path / "calibrated" / "bundle")
    calibrate.main(calibrate.Config(model=tuned, held_out=str(held_out), data=data, out=str(tmp_path / "calibrated")))
    bundle = bertjax.load(calibrated)
    threshold = bundle.config.no_answer_threshold
    assert threshold is not None
    result = json.loads((tmp_path / "calibrated" / "run.json").read_text())["result"]
    assert (result["threshold"], result["squad_f1"] >= result["squad_f1 before"]) == (threshold, True)
    texts, pairs = (list(side) for side in zip(*PAIRS[:4], strict=True))
    always = dataclasses.replace(bundle, config=bundle.config.replace(no_answer_threshold=1e6))
    never = dataclasses.replace(bundle, config=bundle.config.replace(no_answer_threshold=-1e6))
    assert all(always.predict(texts, pairs).labels)
    assert not any(never.predict(texts, pairs).labels)
    finetune.main(finetune.Config(model=calibrated, data=data, steps=1, out=str(tmp_path / "again")))
    assert bertjax.load(tmp_path / "again" / "bundle").config.no_answer_threshold is None
    answered = str(qa(tmp_path / "answered")["train"])
    with pytest.raises(UserError, match=f"0 of {len(PAIRS)} questions have no answer; a threshold needs"):
        calibrate.main(calibrate.Config(model=tuned, held_out=answered, data=data, out=str(tmp_path / "none")))


@pytest.mark.slow
def test_what_looks_inside_the_teacher_learns_from_a_stored_and_from_a_live_one(tmp_path: Path):
    """The first step's losses are the same, but for the half precision of what is stored."""
    model, fields = write_model(tmp_path / "model"), classification_of_pairs(tmp_path / "data")
    data = Data(train=str(fields["train"]), eval=str(fields["train"]), max_length=16)
    losses = (LastHiddenState(), PatientStates(), AttentionScores(), Relations(heads=2), HiddenStates(preset="paper"))
    finetune.main(finetune.Config(model=str(model), out=str(tmp_path / "teacher"), data=data, steps=2, batch_size=8))
    first = {}
    for store in (True, False):
        out = tmp_path / f"student-{store}"
        distill.main(
            distill.Config(
                model=str(tmp_path / "teacher" / "bundle"),
                data=data,
                steps=1,
                batch_size=8,
                student=Student(num_hidden_layers=2, init_from="random"),
                losses=losses,
                store=store,
                out=str(out),
            )
        )
        first[store] = next(line for line in metrics(out) if "loss" in line)
        assert (out / "teacher").is_dir() == store
    names = [f"loss/{i}_{type(loss).__name__}" for i, loss in enumerate(losses)]
    assert [first[True][name] for name in names] == pytest.approx([first[False][name] for name in names], rel=1e-2)
    assert all(first[True][name] > 0 for name in names)
