"""Every kind of task goes the whole way: files as people have them, fine-tuning, distillation, predictions."""

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
from bertjax.recipes.data import Data
from bertjax.student import Student
from tests.train.tiny import BAD, GOOD, metrics, write_model
from train import distill, finetune

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


@pytest.mark.slow
@pytest.mark.parametrize("kind", [classification_of_pairs, regression, multi_label, tokens, qa])
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
        assert {"regression": float, "qa": str}.get(kind.__name__, str) is type(predicted.labels[0])


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
