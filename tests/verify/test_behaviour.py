"""What verify says of depth, tokens, batches and the worst case is what the bundle does; what was spoilt is seen."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.export.folder import export_config, write_export
from bertjax.measure.latency import Latency, Percentiles, Timing
from bertjax.measure.onnx import FLOATS
from bertjax.measure.processes import chosen
from bertjax.model import ExitRule, Exits, Retention
from bertjax.text.encode import Encoded, encode_examples
from bertjax.text.examples import Examples
from bertjax.text.tasks import Task
from bertjax.text.tokenizer import Tokenizer
from bertjax.verify import Bounds, verdict
from bertjax.verify.behaviour import behaviour_of, decisions, times_by_length
from bertjax.verify.measured import Behaviour, LengthTimes, WorstCase
from bertjax.verify.text import behaviour as said
from tests.model.tiny import apply, tiny
from tests.verify.test_verdict import GOOD
from tests.verify.tiny import LABELS, VOCABULARY, WORDS

onnx = pytest.importorskip("onnx", reason="an extra")
pytest.importorskip("onnxruntime", reason="an extra")
WORD_COUNTS = (3, 9, 20, 14, 5, 30, 7, 26)
"""Texts are two tokens longer, by [CLS] and [SEP]."""
EXITS = {"num_hidden_layers": 4, "exits": Exits((0, 1, 2), exit_rule=ExitRule("max_probability", 0.6))}
RETENTION = Retention((0.6, 0.3))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("words")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def rows(tokenizer: Tokenizer) -> Encoded:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, n)) for n in WORD_COUNTS]
    return encode_examples(Examples(texts), Task(kind="classification", labels=LABELS), tokenizer, 40)


def write(folder: Path, **changes: Any) -> Bundle:
    model, params = tiny(vocab_size=len(VOCABULARY), max_position_embeddings=40, labels=LABELS, **changes)
    bundle = Bundle(model.config, params)
    write_export(bundle, "onnx", folder, False, "int8")
    (folder / "config.json").write_text(json.dumps(export_config(bundle.config, "onnx", folder)))
    return bundle


def batch(rows: Encoded) -> dict[str, Any]:
    mask = np.arange(40) < rows.lengths[:, None]
    arrays = {name: np.zeros(mask.shape, np.int32) for name in ("input_ids", "token_type_ids")}
    arrays["input_ids"][mask] = rows.ids
    return arrays | {"attention_mask": mask.astype(np.int32)}


def test_depths_are_those_of_the_bundle_and_the_worst_case_takes_every_layer(rows: Encoded, tmp_path: Path):
    bundle = write(tmp_path, **EXITS)
    found, order = behaviour_of(tmp_path, rows, 1), chosen(len(rows), 128)
    shares = np.exp(np.stack(apply(bundle.model, bundle.params, batch(rows)).exit_logits))
    sure = (shares / shares.sum(axis=-1, keepdims=True)).max(axis=-1) > 0.6
    depths = np.where(sure.any(axis=0), sure.argmax(axis=0) + 1, 4)
    assert len(set(depths.tolist())) > 1
    assert found.depths == tuple(depths[order].tolist())
    assert (found.rows, found.changed, found.tokens) == (len(rows), 0, ())
    assert found.largest < 1e-5
    assert found.worst is not None
    assert (found.worst.tokens, found.worst.depth) == (32, 4)


def test_tokens_that_go_on_are_counted_in_the_file(rows: Encoded, tmp_path: Path):
    write(tmp_path, retention=RETENTION, architecture="BertForTokenClassification")
    found = behaviour_of(tmp_path, dataclasses.replace(rows, task=Task(kind="tokens", labels=LABELS)), 1)
    for (step, mean), share in zip(found.tokens, RETENTION.shares, strict=True):
        kept = [np.ceil(share * (words + 2)) for words in WORD_COUNTS]
        assert mean == pytest.approx(np.mean(kept)), step
    assert (found.changed, found.depths, found.worst) == (0, (), None)


def test_a_file_whose_answers_depend_on_padding_is_refused(rows: Encoded, tmp_path: Path):
    write(tmp_path, architecture="BertForTokenClassification")
    rows = dataclasses.replace(rows, task=Task(kind="tokens", labels=LABELS))
    assert behaviour_of(tmp_path, rows, 1).changed == 0
    model = onnx.load(tmp_path / FLOATS)
    (hides,) = [one for one in model.graph.initializer if one.name == f"number/{float(np.finfo(np.float32).min)!r}"]
    hides.raw_data = np.float32(0).tobytes()
    onnx.save(model, tmp_path / FLOATS)
    seen = behaviour_of(tmp_path, rows, 1)
    assert seen.changed > 0
    failures = verdict(dataclasses.replace(GOOD, behaviour=seen), Bounds())
    assert [one.what for one in failures] == [
        f"NEW answers {seen.changed} of 8 texts differently alone and beside other texts"
    ]


def test_what_is_made_of_logits():
    logits = np.array([[0.1, 2.0], [3.0, -1.0], [0.2, 0.5]])
    assert decisions("tokens", logits).tolist() == [1, 0, 1]
    assert decisions("qa", logits).tolist() == [1, 0]
    assert decisions("multi_label", logits[1]).tolist() == [True, False]
    assert decisions("classification", logits[0]) == 1
    assert decisions("regression", logits[0]).size == decisions("embedding", logits[0]).size == 0


def test_times_are_gathered_by_length(rows: Encoded):
    def timing(factor: float) -> Timing:
        both = Percentiles(1.0, 1.0)
        by_text = tuple(factor * WORD_COUNTS[n] for n in chosen(len(rows), 128))
        return Timing("onnxruntime", "cpu", 1, {}, Latency(both, both), 1.0, (), by_text)

    found = times_by_length(rows, len(rows), timing(2.0), timing(1.0))
    assert found == (
        LengthTimes(8, 2, 8.0, 4.0),  # texts of 3 and 5 words
        LengthTimes(16, 3, 18.0, 9.0),  # of 7, 9 and 14
        LengthTimes(32, 3, 52.0, 26.0),  # of 20, 26 and 30
    )
    assert times_by_length(rows, len(rows), timing(2.0), dataclasses.replace(timing(1.0), milliseconds=())) == ()


def test_agreement_has_a_bound():
    assert verdict(GOOD, Bounds(min_agreement=99)) == []
    (failure,) = verdict(GOOD, Bounds(min_agreement=99.5))
    assert failure.what == "NEW predicts the same as OLD for 99.00% of the texts; the bound is at least 99.5 %"
    with pytest.raises(bertjax.UserError, match="--min_agreement=nan: expected a finite number"):
        Bounds(min_agreement=float("nan"))


def test_the_behaviour_is_told_in_lines():
    seen = Behaviour(128, 1, 2e-6, (1, 2, 6), ((1, 20.5), (4, 7.25)), WorstCase(64, 6, 9.0, 4.5))
    times = (LengthTimes(32, 100, 4.0, 2.0), LengthTimes(64, 28, 8.0, 3.0))
    assert list(said(dataclasses.replace(GOOD, behaviour=seen, by_length=times))) == [
        "ms by length, OLD -> NEW, up to so many tokens (texts): 32: 4 -> 2 (100), 64: 8 -> 3 (28)",
        "NEW alone and in batches, 128 texts: 1 with another answer or depth; "
        "of the others, logits differ by at most 2e-06",
        "NEW takes 3.00 layers on average, from 1 to 6",
        "tokens that go on in NEW, on average: 20.5 after layer 1, 7.2 after layer 4",
        "NEW's worst case, 64 tokens through all 6 layers: 9 ms, 4.5 ms with its own threshold",
    ]
    assert list(said(GOOD)) == []
