"""The gate on models that tag words or answer questions: files beside their bundles, and beside what went wrong."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.export import export
from bertjax.measure.onnx import FLOATS
from bertjax.text.tasks import Task
from bertjax.text.tokenizer import Tokenizer
from bertjax.verify import Bounds, compare, verdict
from bertjax.verify.__main__ import main
from bertjax.verify.comparison import distinct, renamed_agreement
from bertjax.verify.text import lines
from tests.model.tiny import tiny
from tests.verify.test_gate import timeless, without_frameworks  # noqa: F401  (a fixture)
from tests.verify.tiny import VOCABULARY, WORDS, arrays, write_onnx

onnx = pytest.importorskip("onnx", reason="an extra")
pytest.importorskip("onnxruntime", reason="an extra")
TOKENS = (*VOCABULARY, "##s", "##ly")
TAGS = ("O", "B-film", "I-film", "B-word")
LIMIT = 24


def write_bundle(folder: Path, architecture: str, labels: tuple[str, ...]) -> Bundle:
    """A model of random numbers, large enough to have opinions."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    sizes = {"vocab_size": len(TOKENS), "max_position_embeddings": LIMIT}
    model, params = tiny(architecture=architecture, labels=labels, **sizes)
    bertjax.save(Bundle(model.config, params, Tokenizer.from_folder(folder)), folder / "bundle")
    return bertjax.load(folder / "bundle")


def spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """Entities, read off letter by letter: the type of every word, cut where one begins or another type follows."""
    found, at = set(), 0
    while at < len(tags):
        end = at + 1
        if tags[at] != "O":
            while end < len(tags) and tags[end] == f"I-{tags[at][2:]}":
                end += 1
            found.add((tags[at][2:], at, end))
        at = end
    return found


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> Path:
    """bundle, onnx, and sentences.jsonl with odd names of columns: sub-words, an unknown word, one text that is cut."""
    folder = tmp_path_factory.mktemp("tagger") / "x"
    bundle = write_bundle(folder, "BertForTokenClassification", TAGS)
    export(folder / "bundle", "onnx", folder / "onnx")
    rng = random.Random(0)
    words = [
        [rng.choice(WORDS) + rng.choice(("", "", "s", "ly")) for _ in range(n)] for n in (3, 1, 7, 2, 40, *[5] * 30)
    ]
    words[1] = ["kino"]
    gold: Any = bundle.predict([" ".join(row) for row in words]).labels
    for number, row in enumerate(gold):
        if number % 3 == 0:
            row[0] = "B-word" if row[0] == "O" else "O"
    rows = [{"worte": row, "marken": tags} for row, tags in zip(words, gold, strict=True)]
    (folder / "sentences.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


TAGGING = Task(kind="tokens", text="worte", label="marken")


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """bundle, onnx, and questions.jsonl: contexts of several windows, odd names of columns. No articles, which SQuAD's
    score leaves out."""
    folder = tmp_path_factory.mktemp("reader") / "x"
    bundle = write_bundle(folder, "BertForQuestionAnswering", ("start", "end"))
    export(folder / "bundle", "onnx", folder / "onnx")
    rng = random.Random(1)
    contexts = [" ".join(rng.choices(WORDS[:6], k=count)) for count in (4, 60, 9, 35, *[12] * 20)]
    said: Any = bundle.predict(["good plot"] * len(contexts), contexts).labels
    rows = []
    for number, (context, text) in enumerate(zip(contexts, said, strict=True)):
        gold = text if number % 4 else context.split()[0]
        answers = {"text": [gold], "answer_start": [context.index(gold)]}
        rows.append({"frage": "good plot", "absatz": context, "antworten": answers})
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


READING = Task(kind="qa", text="frage", text_pair="absatz", label="antworten")
DATA = {"tagger": ("sentences.jsonl", TAGGING), "reader": ("questions.jsonl", READING)}


def compared(folder: Path, new: str = "onnx", old: str = "onnx", **more: Any) -> Any:
    name, task = next(DATA[kind] for kind in DATA if (folder / DATA[kind][0]).exists())
    return compare(folder / new, folder / old, str(folder / name), task, max_length=LIMIT, **more)


def copied(folder: Path, name: str) -> Path:
    """A copy of the file as another tool would leave it, without digests."""
    shutil.copytree(folder / "onnx", folder / name)
    (folder / name / "digests.json").unlink()
    return folder / name


def rows_of(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("timeless")
def test_a_tagger_is_scored_by_its_entities_and_held_against_its_bundle(tagger: Path):
    found = compared(tagger)
    rows = rows_of(tagger)
    said: Any = bertjax.load(tagger / "bundle").predict([" ".join(row["worte"]) for row in rows]).labels
    pairs = [(spans(ours), spans(row["marken"])) for ours, row in zip(said, rows, strict=True)]
    right, predicted, gold = (sum(map(len, x)) for x in ([a & b for a, b in pairs], *zip(*pairs, strict=True)))
    assert found.metric == "entity_f1"
    np.testing.assert_allclose(found.new.score, 2 * right / (predicted + gold))
    assert (found.texts, found.new.truncated, found.change) == (35, 1, 0.0)
    assert found.agreement == found.same_tokens == 1.0
    low, high = found.new.interval
    assert low < found.new.score < high
    assert found.parity is not None
    assert found.parity.agreement == 1.0
    assert found.parity.largest < 1e-5
    assert verdict(found, Bounds(max_drop=0.0)) == []
    assert any("entity F1" in line for line in lines(found, []))


@pytest.mark.slow
@pytest.mark.usefixtures("timeless")
def test_answers_are_scored_over_all_windows_and_held_against_the_bundle(reader: Path):
    found = compared(reader)
    rows = rows_of(reader)
    said = bertjax.load(reader / "bundle").predict(["good plot"] * len(rows), [row["absatz"] for row in rows]).labels
    exact = [text == row["antworten"]["text"][0] for text, row in zip(said, rows, strict=True)]
    assert found.metric == "squad_f1"
    assert found.new.score >= np.mean(exact)  # words may be right where the whole is not
    em = compare(reader / "onnx", reader / "onnx", str(reader / "questions.jsonl"), squad_em(), max_length=LIMIT)
    np.testing.assert_allclose(em.new.score, np.mean(exact))
    assert 0.5 < em.new.score < 1
    assert found.parity is not None
    assert found.parity.agreement == 1.0
    assert found.parity.largest < 1e-5
    assert (found.labels or 0) > 1


def squad_em() -> Task:
    return Task(kind="qa", text="frage", text_pair="absatz", label="antworten", metric="squad_em")


@pytest.mark.usefixtures("timeless")
def test_one_spoilt_weight_costs_score_and_is_told(tagger: Path):
    spoilt = copied(tagger, "spoilt")
    stored = onnx.load(spoilt / FLOATS)
    (tensor,) = [one for one in stored.graph.initializer if one.name.endswith("layer_0/ffn/output/kernel")]
    bits = np.frombuffer(tensor.raw_data, np.uint32).copy()
    bits[7] ^= 1 << 30  # the highest bit of the exponent
    tensor.raw_data = bits.tobytes()
    onnx.save(stored, spoilt / FLOATS)
    found = compared(tagger, "spoilt")
    failures = verdict(found, Bounds(max_drop=1.0))
    assert failures[0].what.startswith("the score fell")
    assert "NEW's logits are not those of" in failures[1].what
    assert found.change < -10
    assert found.difference[1] < 0
    assert found.agreement < 1


@pytest.mark.usefixtures("timeless")
def test_tags_called_by_each_others_names_are_recognised(tagger: Path):
    transpose = copied(tagger, "turned")
    content = json.loads((transpose / "config.json").read_text())
    names = {str(number): name for number, name in enumerate(("B-film", "O", "B-word", "I-film"))}
    for place in (content, content["bertjax"]):
        place["id2label"] = names
    (transpose / "config.json").write_text(json.dumps(content))
    found = compared(tagger, "turned")
    assert found.agreement < 0.5
    np.testing.assert_allclose(found.renamed, 34 / 35)  # of the words that are cut off, neither model says anything
    (failure, *_) = verdict(found, Bounds(max_drop=1.0))
    assert "OLD for 97.1% of the texts if its classes are renamed" in failure.causes[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", DATA)
def test_neither_needs_a_framework(kind: str, request, tmp_path: Path):
    """The whole command in a process that can import no jax, on two copies of a file beside which no bundle lies."""
    folder = request.getfixturevalue(kind)
    for name in ("old", "new"):
        shutil.copytree(folder / "onnx", tmp_path / "deep" / "er" / name)
    data, task = DATA[kind]
    flags = [f"--text={task.text}", f"--label={task.label}", f"--kind={task.kind}", f"--max-length={LIMIT}"]
    flags += [f"--text-pair={task.text_pair}"] * (task.text_pair is not None)
    argv = [str(tmp_path / "deep" / "er" / "new"), f"--against={tmp_path / 'deep' / 'er' / 'old'}", *flags]
    done = without_frameworks([*argv, f"--data={folder / data}", "--max-drop=1", "--max-mb=1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "OLD and NEW predict the same for 100.00% of the texts" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("timeless")
def test_a_model_of_whole_texts_is_no_tagger_and_a_tagger_none_of_texts(tagger: Path, tmp_path: Path, capsys):
    whole = write_onnx(tmp_path / "whole", arrays(), ("O", "B-film"))
    (tmp_path / "few.jsonl").write_text('{"worte": ["good", "film"], "marken": ["O", "B-film"]}\n')
    (tmp_path / "texts.tsv").write_text("text\tlabel\ngood film\tO\nbad\tB-film\n")
    for new, data, said in (
        (whole, ["few.jsonl", "--text=worte", "--label=marken", "--kind=tokens"], "outputs logits per text; a task"),
        (tagger / "onnx", ["texts.tsv"], "outputs logits per token; a task of kind classification needs"),
    ):
        argv = [str(new), "--against", str(new), f"--data={tmp_path / data[0]}", "--max-length=16", *data[1:]]
        with pytest.raises(SystemExit) as left:
            main(argv)
        assert left.value.code == 2
        assert said in capsys.readouterr().err


@pytest.mark.usefixtures("timeless")
def test_pairs_with_odd_names_of_columns_are_scored_together(tmp_path: Path):
    """The second text decides: read by itself, the first would be called bad."""
    model = write_onnx(tmp_path / "model", arrays())
    rows = [("bad film", "good good fine", "good"), ("the plot", "poor bad", "bad"), ("good", "bad poor poor", "bad")]
    table = "".join(f"{number}\t{a}\t{b}\t{label}\n" for number, (a, b, label) in enumerate(rows))
    (tmp_path / "pairs.tsv").write_text(f"nr\tlinks\trechts\turteil\n{table}")
    task = Task(text="links", text_pair="rechts", label="urteil")
    assert compare(model, model, str(tmp_path / "pairs.tsv"), task).new.score == 1.0
    alone = Task(text="links", label="urteil")
    assert compare(model, model, str(tmp_path / "pairs.tsv"), alone).new.score < 1.0


def test_another_order_is_one_of_the_classes_that_are_said():
    task = Task("tokens", labels=TAGS)
    new, old = [["B-film", "O"], ["B-film"]], [["O", "B-word"], ["O"]]
    assert renamed_agreement(task, new, old) == 1.0  # nobody says I-film, so it may be called as it is
    assert renamed_agreement(task, new, new) is None
    assert renamed_agreement(task, [["O", "O"], ["O"]], old) is None  # one tag for everything
    assert distinct("tokens", [["O", "O"], ["O"]]) == 1
    assert distinct("qa", ["a", "b", "a"]) == 2
