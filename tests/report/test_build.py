"""The one call, on two tiny bundles and a bag of words: every number from its source, every file in its form."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

import bertjax
from bertjax.baselines.bag_of_words import fit_bag_of_words
from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.measure.cost import forward_cost
from bertjax.measure.worker import JaxRuntime
from bertjax.metrics.uncertainty import mcnemar, paired_difference_interval, score_interval
from bertjax.model import BertConfig, init_params
from bertjax.params import count
from bertjax.report.build import Entry, measure_bundles, program
from bertjax.report.card import write_card
from bertjax.report.models import BAG_OF_WORDS, WITHOUT_TEACHER, read_report
from bertjax.report.write import write_report
from bertjax.text.tasks import Task
from tests.report.test_report import ROW, SCHEMA, assert_follows
from tests.text.tiny import WHOLE, tiny_tokenizer
from tests.tolerances import SAME_MATHS

RNG = np.random.default_rng(7)
TASK = Task("classification", text="text", labels=("bad", "good"), metric="accuracy")
LABELS = RNG.integers(0, 2, 60)
TEXTS = [" ".join(RNG.choice(WHOLE, RNG.integers(1, 20))) for _ in LABELS]
RIGHT = {"teacher": 0.95, "student": 0.9, WITHOUT_TEACHER: 0.6, BAG_OF_WORDS: 0.5}
PREDICTIONS = {name: np.where(RNG.random(60) < share, LABELS, 1 - LABELS) for name, share in RIGHT.items()}


def tiny_bundle(layers):
    config = BertConfig(
        architecture="BertForSequenceClassification",
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        labels=TASK.labels,
    )
    return Bundle(config, jax.device_get(init_params(config, layers)), tiny_tokenizer())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    for name, layers in [("teacher", 2), ("student", 1), ("alone", 1)]:
        bertjax.save(tiny_bundle(layers), root / name)
    fit_bag_of_words("classification", TEXTS, LABELS).save(root / "words")
    return root


@pytest.fixture(scope="module")
def report(folders):
    entries = [
        Entry("teacher", folders / "teacher", PREDICTIONS["teacher"], training_step_bytes=800),
        Entry("student", folders / "student", PREDICTIONS["student"]),
        Entry(WITHOUT_TEACHER, folders / "alone", PREDICTIONS[WITHOUT_TEACHER]),
        Entry(BAG_OF_WORDS, folders / "words", PREDICTIONS[BAG_OF_WORDS], runtime="sklearn"),
    ]
    where = {"task": TASK, "baseline": "teacher", "source": "tiny.tsv"}
    return measure_bundles(entries, LABELS, TEXTS, **where, max_length=8, sample=12)


@pytest.mark.slow
def test_rows_hold_what_each_measurement_says(report, folders):
    teacher, student, _, words = report.rows
    assert [row.score for row in report.rows] == [np.mean(p == LABELS) for p in PREDICTIONS.values()]
    assert student.score_ci95 == score_interval("accuracy", PREDICTIONS["student"], LABELS)
    right = [PREDICTIONS[name] == LABELS for name in ("student", "teacher")]
    assert student.p_value_vs_baseline == mcnemar(*right)
    assert teacher.p_value_vs_baseline is None
    bundle = bertjax.load(folders / "teacher")
    assert teacher.parameters == count(bundle.params)
    assert teacher.size_bytes == (folders / "teacher" / "model.safetensors").stat().st_size
    assert teacher.flops_per_example == forward_cost(bundle.model, bundle.params, round(report.lengths.p50)).flops
    assert teacher.peak_memory_bytes.training_step == 800
    assert student.peak_memory_bytes.training_step is None
    assert [row.runtime for row in report.rows] == ["jax", "jax", "jax", "sklearn"]
    assert words.bundle is words.flops_per_example is None
    lengths = [min(len(text.split()) + 2, 8) for text in TEXTS]  # a word is a token here
    assert (report.lengths.p50, report.lengths.p95) == tuple(np.percentile(lengths, (50, 95)))
    assert all(row.latency_ms.end_to_end.p50 > 0 and row.throughput_per_s["batch_32"] > 0 for row in report.rows)
    assert {"python", "jax", "flax", "bertjax", "scikit-learn"} <= report.versions.keys()


@pytest.mark.slow
def test_student_is_compared_with_the_first_model_and_both_baselines(report):
    assert list(report.comparisons) == [("student", name) for name in PREDICTIONS if name != "student"]
    alone = report.comparisons["student", WITHOUT_TEACHER]
    student, other = PREDICTIONS["student"], PREDICTIONS[WITHOUT_TEACHER]
    assert alone.ci95 == paired_difference_interval("accuracy", student, other, LABELS)
    assert alone.value == pytest.approx(np.mean(student == LABELS) - np.mean(other == LABELS))


@pytest.mark.slow
def test_flips_are_texts_that_one_of_the_two_gets_right(report):
    assert {flip.row for flip in report.flips} == {"student"}
    assert any(flip.baseline_label == flip.gold for flip in report.flips)
    for flip in report.flips:
        rows = [i for i, text in enumerate(TEXTS) if text == flip.text]
        assert flip.baseline_label != flip.row_label
        shown = (flip.gold, flip.baseline_label, flip.row_label)
        sides = (LABELS, PREDICTIONS["teacher"], PREDICTIONS["student"])
        assert shown in [tuple(TASK.labels[side[i]] for side in sides) for i in rows]


@pytest.mark.slow
def test_a_bundle_in_bfloat16_is_a_bundle(folders):
    """Its changed labels are shown, and it shares a program only with models of the same shape and dtype."""
    student = Entry("student", folders / "student", PREDICTIONS["student"], runtime="jax-bfloat16")
    teacher = Entry("teacher", folders / "teacher", PREDICTIONS["teacher"])
    where = {"task": TASK, "baseline": "teacher", "source": "tiny.tsv", "max_length": 8, "sample": 4}
    report = measure_bundles([teacher, student], LABELS, TEXTS, **where)
    assert report.row("student").runtime == "jax, bfloat16"
    assert {flip.row for flip in report.flips} == {"student"}
    again = dataclasses.replace(student, name="again", folder=folders / "alone")
    assert program(student) == program(again) != program(dataclasses.replace(again, runtime="jax"))


@pytest.mark.slow
def test_report_is_written_and_read_back(report, folders):
    write_report(report, folders)
    content = json.loads((folders / "report.json").read_text())
    assert_follows(content, SCHEMA)
    for row in content["rows"]:
        assert_follows(row, ROW)
    assert [row["bundle"] for row in content["rows"]] == ["teacher", "student", "alone", None]
    assert read_report(folders / "report.json").rows == report.rows


@pytest.mark.slow
def test_card_says_to_the_hub_and_to_people_what_was_measured(report, folders):
    command = "bertjax compress --config=quickstart"
    path = write_card(
        folders / "student", report, "student", task=TASK, source="tiny.tsv", command=command, max_length=16
    )
    card: Any = ModelCard.load(path)
    assert (card.data.library_name, card.data.pipeline_tag) == ("bertjax", "text-classification")
    assert not {"license", "language", "base_model"} & card.data.to_dict().keys()
    assert "trained" not in card.text.partition("## Use")[0]
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", round(report.row("student").score, 4))
    assert result.dataset_name == "tiny.tsv"
    for part in (
        "| student | jax |",
        "**student** next to *teacher*",
        f"```sh\n{command}\n```",
        "bertjax.load(",
        "Labels: bad, good.",
    ):
        assert part in card.text
    assert bertjax.load(folders / "student").config.labels == TASK.labels  # still a bundle


def test_timed_forward_is_the_one_of_predict(folders):
    runtime = JaxRuntime(str(folders / "teacher"), TEXTS, None, 16)
    bundle = bertjax.load(folders / "teacher")
    wanted = bundle.predict(TEXTS, max_length=16).probabilities
    assert wanted is not None
    for i in range(10):
        inputs = runtime.encode([TEXTS[i]], None)
        assert inputs[0].shape[1] in runtime.buckets
        probabilities = jax.nn.softmax(runtime.forward(inputs), axis=-1)
        np.testing.assert_allclose(probabilities, wanted[i : i + 1], **SAME_MATHS)
    many = runtime.forward(runtime.encode(TEXTS, None))
    np.testing.assert_allclose(jax.nn.softmax(many, axis=-1), wanted, **SAME_MATHS)


def test_a_baseline_that_is_not_measured_is_refused(folders):
    with pytest.raises(UserError, match="'gold' is not among the models"):
        measure_bundles([Entry("x", folders, [1])], [1], ["a"], task=TASK, baseline="gold", source="")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "metric", "pipeline"),
    [("tokens", "entity_f1", "token-classification"), ("qa", "squad_f1", "question-answering")],
)
def test_cards_of_other_tasks_name_their_pipeline(report, folders, kind, metric, pipeline):
    other = dataclasses.replace(report, metric=metric)
    task = Task(kind, text="text", metric=metric)
    path = write_card(
        folders / "alone",
        other,
        WITHOUT_TEACHER,
        task=task,
        source="x",
        command="y",
        base="hf:google/bert",
        max_length=16,
    )
    card: Any = ModelCard.load(path)
    assert (card.data.pipeline_tag, card.data.metrics, card.data.base_model) == (pipeline, ["f1"], "google/bert")
