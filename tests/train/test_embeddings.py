"""Sentence embeddings the whole way: a student learns from unlabelled text, is scored by the teacher's similarities,
exported, and verified against the teacher; and pairs are learned with and without scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import bertjax
from bertjax.distill.terms import Embeddings, HardLabels, InBatchNegatives, Similarities
from bertjax.engine.command_line import load_config
from bertjax.errors import UserError
from bertjax.export import export
from bertjax.jobs.data import Text
from bertjax.jobs.search_text import searched_data
from bertjax.measure.onnx import open_session
from bertjax.metrics.neighbours import similarities
from bertjax.model import BertConfig
from bertjax.model.sentence import SentenceEmbedding
from bertjax.recipes import evaluate as evaluation
from bertjax.recipes.compress import Config as Compress
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.finetune import Config as Finetune
from bertjax.recipes.prune import Config as Prune
from bertjax.recipes.quantize import Config as Quantize
from bertjax.student import Student
from bertjax.text.sources import load_examples
from bertjax.text.tasks import Task
from bertjax.text.tokenizer import Tokenizer
from bertjax.verify import compare
from tests.tolerances import OTHER_FRAMEWORK
from tests.train.tiny import BAD, FILLER, GOOD, metrics, write_model, write_table
from train import distill, evaluate, finetune, prune, quantize

onnxruntime = pytest.importorskip("onnxruntime", reason="an extra")
SPEARMAN: Any = stats.spearmanr
PAIRS = [f"the {a} film\tits {b} cast\t{i % 5 / 4}" for i, (a, b) in enumerate(zip(GOOD * 4, BAD * 4, strict=True))]


def embedder(folder: Path, **changes) -> str:
    given = {"initializer_range": 0.3, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return str(write_model(folder, architecture="BertForSentenceEmbedding", **given, **changes))


def data(tmp_path: Path, **more) -> Data:
    """Texts without labels to learn from, and with labels, which are not read, to score on."""
    train, held_out = write_table(tmp_path / "train.tsv", 24, labelled=False), write_table(tmp_path / "eval.tsv", 16, 1)
    return Data(train=str(train), eval=str(held_out), kind="embedding", max_length=16, **more)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    rows = zip(similarities(one), similarities(other), strict=True)
    return float(np.mean([SPEARMAN(*pair).statistic for pair in rows]))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the teacher, the student `run/bundle`, its text, and its export."""
    folder = tmp_path_factory.mktemp("distilled")
    teacher = embedder(folder / "teacher", embedding=SentenceEmbedding(max_length=12))
    losses = Embeddings(), Similarities(temperature=0.1)
    student = Student(num_hidden_layers=1, hidden_size=8, num_attention_heads=2)
    common: dict[str, Any] = {"steps": 6, "batch_size": 8, "data": data(folder), "losses": losses}
    distill.main(Config(model=teacher, student=student, out=str(folder / "run"), **common))
    export(folder / "run" / "bundle", "onnx", folder / "file")
    return folder


def texts_of(folder: Path) -> list[str]:
    return [line.split("\t")[0] for line in (folder / "eval.tsv").read_text().splitlines()[1:]]


def test_a_narrower_student_learns_from_text_without_labels(distilled: Path):
    last = [line for line in metrics(distilled / "run") if "loss" in line][-1]
    assert {"loss/0_Embeddings", "loss/1_Similarities"} <= last.keys()
    student, teacher = (bertjax.load(distilled / name) for name in ("run/bundle", "teacher"))
    ours, theirs = (bundle.encode(texts_of(distilled), max_length=16) for bundle in (student, teacher))
    assert ours.shape == (16, 8)
    record = json.loads((distilled / "run" / "run.json").read_text())
    assert record["result"]["similarity_spearman"] == pytest.approx(agreement(ours, theirs), abs=1e-5)


def test_the_exported_file_pools_and_scales_and_names_its_outputs(distilled: Path):
    session = open_session(distilled / "file", 1)
    assert [one.name for one in session.get_outputs()] == ["sentence_embedding", "last_hidden_state"]
    bundle, texts = bertjax.load(distilled / "run" / "bundle"), texts_of(distilled)
    encoded = Tokenizer.from_folder(distilled / "file").encode(texts, None, 16, spans=False)
    ids = np.zeros((len(texts), 16), np.int64)
    for row, own in enumerate(encoded.ids):
        ids[row, : len(own)] = own
    found, states = session.run(
        None, {"input_ids": ids, "attention_mask": ids * 0 + (ids > 0), "token_type_ids": ids * 0}
    )
    np.testing.assert_allclose(found, bundle.encode(texts, max_length=16), **OTHER_FRAMEWORK)
    real = (ids > 0)[..., None]
    mean = (states * real).sum(1) / real.sum(1)
    np.testing.assert_allclose(mean / np.linalg.norm(mean, axis=1, keepdims=True), found, **OTHER_FRAMEWORK)
    assert json.loads((distilled / "file" / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    assert json.loads((distilled / "file" / "config.json").read_text())["architectures"] == ["BertModel"]


@pytest.mark.slow
def test_a_file_is_verified_by_its_agreement_with_the_teacher(distilled: Path):
    folders = distilled / "file", distilled / "teacher", str(distilled / "eval.tsv")
    measured = compare(*folders, Task(kind="embedding"), max_length=16, parity=distilled / "run" / "bundle")
    assert measured.old.score == pytest.approx(1.0)
    ours, theirs = (
        bertjax.load(distilled / name).encode(texts_of(distilled), max_length=16) for name in ("run/bundle", "teacher")
    )
    assert measured.new.score == pytest.approx(agreement(ours, theirs), abs=1e-3)
    assert measured.parity is not None
    assert measured.parity.distance < 1e-4
    assert measured.agreement is None


@pytest.mark.slow
def test_a_report_has_the_bag_of_words_and_the_static_table_beside_the_models(distilled: Path, tmp_path: Path):
    against = (str(distilled / "run" / "bundle"), str(distilled / "file"))
    given = data(distilled, metric="recall_at_10")
    evaluate.main(evaluation.Config(str(distilled / "teacher"), against, given, str(tmp_path / "report")))
    rows = {row["name"]: row for row in json.loads((tmp_path / "report" / "report.json").read_text())["rows"]}
    assert list(rows) == ["teacher", "run", "file", "bag of words", "static table"]
    assert rows["teacher"]["score"] == 1
    assert rows["run"]["score"] == pytest.approx(rows["file"]["score"])
    assert 0 < rows["static table"]["score"] < 1
    assert min(rows[name]["size_bytes"] for name in ("static table", "bag of words")) > 0


@pytest.mark.slow
def test_an_embedder_is_pruned_without_labels(distilled: Path, tmp_path: Path):
    shape: Any = {"heads": 0.5, "neurons": 0.5, "criterion": "activity", "batch_size": 8, "steps": 2}
    given: Any = {"model": str(distilled / "teacher"), "data": data(distilled), "out": str(tmp_path / "thin")}
    prune.main(Prune(**given, **shape))
    bundle = bertjax.load(tmp_path / "thin" / "bundle")
    heads, neurons = zip(*(step.shape for step in bundle.config.depth_steps()), strict=True)
    assert (heads, sum(neurons)) == ((1, 1), 32)
    assert bundle.encode(["the film"]).shape == (1, 16)


@pytest.mark.slow
def test_an_embedder_is_quantised_without_labels(distilled: Path, tmp_path: Path):
    run = Quantize(model=str(distilled / "teacher"), data=data(distilled), out=str(tmp_path / "int8"))
    quantize.main(run)
    record = json.loads((tmp_path / "int8" / "run.json").read_text())
    assert 0.9 < record["result"]["similarity_spearman"] < 1


def test_a_search_chooses_on_a_part_of_the_text_without_labels(tmp_path: Path):
    given = data(tmp_path)
    text = Text.of(given, verbose=False, model="teacher")
    found = searched_data(Compress(model="teacher", data=given, max_mb=1.0), text, text.task(), tmp_path)
    assert (found.reference, found.kind, found.metric) == ("teacher", "embedding", "similarity_spearman")
    held, learned = (load_examples(source, found.task).texts for source in (found.eval, found.train))
    assert (len(held), len(learned)) == (4, 20)
    assert not set(held) & set(learned)


def test_the_recipes_fit_the_demo_embedder():
    config, alone = load_config("embedding", Compress), load_config("embedding:three_layers", Config)
    teacher = BertConfig(architecture="BertForSentenceEmbedding", hidden_size=384, num_attention_heads=12)
    for loss in alone.losses:
        loss.build(teacher, teacher)
    assert alone.student == config.stages[1].student_shape
    assert load_config("embedding:two_layers", Config).student.config(teacher).output_size == 384
    assert not load_config("embedding:thin", Prune).scores_by.reads_labels
    assert config.data.task.kind == "embedding"


def write_pairs(path: Path, columns: int) -> str:
    names = ("sentence1", "sentence2", "score")[:columns]
    path.write_text("\n".join(["\t".join(names), *("\t".join(row.split("\t")[:columns]) for row in PAIRS)]) + "\n")
    return str(path)


@pytest.mark.slow
def test_pairs_are_learned_by_their_scores_and_as_what_belongs_together(tmp_path: Path):
    model, pairs = embedder(tmp_path / "model"), write_pairs(tmp_path / "pairs.tsv", 3)
    given = Data(train=pairs, eval=pairs, kind="embedding", max_length=16)
    common: dict[str, Any] = {"batch_size": 16, "steps": 8, "micro_batches": 2}
    finetune.main(Finetune(model=model, data=given, out=str(tmp_path / "scores"), **common))
    record = json.loads((tmp_path / "scores" / "run.json").read_text())
    bundle = bertjax.load(tmp_path / "scores" / "bundle")
    first, second, scores = zip(*(row.split("\t") for row in PAIRS), strict=True)
    cosines = (bundle.encode(list(first)) * bundle.encode(list(second))).sum(axis=1)
    expected = SPEARMAN(cosines, list(map(float, scores))).statistic
    assert record["result"]["spearman"] == pytest.approx(expected, abs=1e-4)

    given = Data(train=write_pairs(tmp_path / "two.tsv", 2), eval=pairs, kind="embedding", max_length=16)
    losses = InBatchNegatives(), Embeddings(weight=0.1)
    distill.main(Config(model=model, data=given, losses=losses, out=str(tmp_path / "together"), **common))
    record = json.loads((tmp_path / "together" / "run.json").read_text())
    assert record["result"].keys() == {"spearman"}


def test_what_pairs_are_needed_for_is_an_error_with_the_way_out(tmp_path: Path):
    model, given = embedder(tmp_path / "model"), data(tmp_path)
    with pytest.raises(UserError, match="InBatchNegatives learns from pairs of texts: name the second column"):
        distill.main(Config(model=model, data=given, losses=(InBatchNegatives(),), out=str(tmp_path / "one")))
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(
        "sentence1\tsentence2\tscore\n" + "\n".join(f"the {word}\tfilm\t{i}" for i, word in enumerate(FILLER))
    )
    given = Data(train=str(pairs), eval=str(pairs), kind="embedding", max_length=16)
    with pytest.raises(UserError, match="go from 0 to 11; they are learned as cosines"):
        distill.main(Config(model=model, data=given, losses=(HardLabels(),), out=str(tmp_path / "two")))
    with pytest.raises(UserError, match="expected a multiple of 4 rows"):
        distill.main(
            Config(
                model=model,
                data=given,
                losses=(InBatchNegatives(),),
                batch_size=6,
                micro_batches=2,
                out=str(tmp_path / "3"),
            )
        )
