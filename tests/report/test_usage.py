"""The snippets of model cards, run as they stand there: every kind of task, texts beyond the limit, German ones."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.export import export
from bertjax.measure.latency import Percentiles
from bertjax.report.card import write_card
from bertjax.report.models import ModelRow, Report
from bertjax.text.tasks import METRICS, Task
from tests.train.tiny import FILLER, GOOD, write_model, write_roberta

pytest.importorskip("onnxruntime", reason="an extra")

LENGTH = 20
LONG = " ".join((*FILLER, *GOOD) * 60)
GERMAN = "Ein großartiger Film über Mütter"
CONTEXT = "the text in which its answer stands"
HEADS = {"tokens": "ForTokenClassification", "qa": "ForQuestionAnswering"}
LABELS = {
    "classification": ("schlecht", "sehr gut", "naja"),
    "multi_label": ("Freude", "Ärger"),
    "regression": ("score",),
    "tokens": ("O", "B-PER", "I-PER"),
    "qa": ("start", "end"),
}
PROBLEMS = {"multi_label": "multi_label_classification", "regression": "regression"}


def card(folder: Path, task: Task, **about: Any) -> str:
    both = Percentiles(9.0, 12.0)
    row = ModelRow("mine", str(folder), "jax", 0.8, (0.7, 0.9), None, 1000, 4000)
    report = Report("x", METRICS[task.kind][0], "cpu", 1, both, "mine", (row,))
    given = {"source": "eval.tsv", "command": "make", "max_length": LENGTH, **about}
    return write_card(folder, report, "mine", task=task, **given).read_text(encoding="utf-8")


def executed(snippet: str, swapped: dict[str, str]) -> dict[str, Any]:
    for old, new in swapped.items():
        assert old in snippet
        snippet = snippet.replace(old, new)
    names: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "paired", "family"),
    [
        *((kind, False, "Bert") for kind in LABELS),
        ("classification", True, "Bert"),
        ("regression", True, "Bert"),
        ("classification", True, "Roberta"),
        ("tokens", False, "Roberta"),
    ],
)
def test_the_snippets_of_a_card_say_what_predict_does(
    kind: Any, paired: bool, family: str, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = Path("path/to/this/folder")
    head = family + HEADS.get(kind, "ForSequenceClassification")
    sizes = {"labels": LABELS[kind], "initializer_range": 0.5, "problem_type": PROBLEMS.get(kind)}
    write = write_roberta if family == "Roberta" else write_model
    bundle = bertjax.load(write(tmp_path / "model", architecture=head, **sizes))
    task = Task(kind, text_pair="zweiter Satz" if paired else None, labels=() if kind == "qa" else LABELS[kind])
    for make in ("bundle", "exported"):
        if make == "bundle":
            bertjax.save(bundle, folder)
        else:
            folder.rename(tmp_path / "bundle")
            export(tmp_path / "bundle", "onnx", folder)
        (snippet,) = re.findall(r"```python\n(.*?)```", card(folder, task), flags=re.S)
        for text in ("a text to judge", LONG, GERMAN):
            second = CONTEXT if kind == "qa" else "and its second" if paired else None
            swapped = {} if text == "a text to judge" else {"a text to judge": text}
            if kind == "qa":  # of a context that fits, for predict reads longer ones in windows
                second = CONTEXT if not swapped else text[: 2 * LENGTH]
                swapped = {CONTEXT: second}
            if kind == "tokens" and make == "exported" and swapped:
                swapped = {'["a", "text", "to", "judge"]': repr(text.split())}
            asked = "a question" if kind == "qa" else text
            wanted = bundle.predict([asked], second and [second], max_length=LENGTH)
            names = executed(snippet, swapped)
            if make == "bundle":
                assert names["output"].labels == wanted.labels
                continue
            answer = names["answer"]
            if kind in ("tokens", "qa"):
                assert answer == wanted.labels[0]
            elif kind == "regression":
                assert answer == pytest.approx(wanted.labels[0], abs=1e-4)
            else:
                assert wanted.probabilities is not None
                assert list(answer) == list(LABELS[kind])
                np.testing.assert_allclose([*answer.values()], wanted.probabilities[0], atol=1e-5)
        if kind == "qa" and make == "exported":
            assert executed(snippet, {CONTEXT: LONG})["answer"] in LONG
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("base", "front", "expected"),
    [
        ("hf:deepset/gbert-base", None, {"base_model": "deepset/gbert-base"}),
        ("demo", None, {}),
        ("mein Modell", None, {}),
        (
            "mein Modell",
            "license: mit\nlanguage: de\nbase_model: a/b",
            {"license": "mit", "language": "de", "base_model": "a/b"},
        ),
        ("mein Modell", "license: [", {}),
    ],
)
def test_a_card_claims_licence_language_and_origin_only_where_a_card_says_so(
    base: str, front: str | None, expected: dict[str, str], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    bertjax.save(
        bertjax.load(write_model(tmp_path / "model", architecture="BertForSequenceClassification")), tmp_path / "mine"
    )
    if front is not None:
        (tmp_path / base).mkdir()
        (tmp_path / base / "README.md").write_text(f"---\n{front}\n---\nEin Modell", encoding="utf-8")
    text = card(tmp_path / "mine", Task("classification", labels=("0", "1")), base=base, learned_from="lernen.csv")
    from huggingface_hub import ModelCard

    data: Any = ModelCard(text).data
    assert {
        name: data.to_dict()[name] for name in ("license", "language", "base_model") if name in data.to_dict()
    } == expected
    assert f"Made from `{base.removeprefix('hf:')}` with the text of lernen.csv." in text
    assert "measured on eval.tsv" in text
    assert "truncated at 20 tokens" in text
