"""Batches for pre-training: complete, inert where there is padding, the same for any number of processes, resumable."""

import json
from itertools import islice
from typing import Any

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.text.corpus import Corpus, build_corpus
from bertjax.text.masking import Masking
from bertjax.text.pretraining import PretrainingRows, held_out_batches, pretraining_batches
from tests.text.test_corpus import write_documents
from tests.text.tiny import tiny_tokenizer

SIZE, LONGEST = 8, 32
SENTENCES = ["none", "next", "order", "order-official"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("pretraining")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTJAX_CACHE", str(folder / "cache"))
        return build_corpus(str(write_documents(folder / "text.txt")), tiny_tokenizer(), LONGEST - 3)


def rows_of(corpus: Corpus, sentences: Any = "order", seed: int = 3, masking: Masking = Masking()) -> PretrainingRows:  # noqa: B008
    return PretrainingRows(corpus, tiny_tokenizer(), LONGEST, sentences, masking, seed)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("sentences", SENTENCES)
@pytest.mark.parametrize("packed", [False, True])
def test_every_chunk_appears_once_an_epoch_and_stands_where_the_fields_say(corpus, sentences, packed):
    rows = rows_of(corpus, sentences)
    run = pretraining_batches(rows, SIZE, packed=packed)
    for epoch in range(2):
        seen = []
        for batch in islice(run, run.steps_per_epoch):
            assert all(len(array) == SIZE for array in batch.values())
            for line, slot in zip(*np.nonzero(batch["example_ids"] >= 0), strict=True):
                number = int(batch["example_ids"][line, slot])
                seen.append(number)
                check_slot({name: array[line] for name, array in batch.items()}, slot, rows.row(number, epoch))
            check_filler(batch)
        assert sorted(seen) == list(range(len(corpus)))


def check_slot(line: dict, slot: int, row) -> None:
    start = line["cls_positions"][slot]
    here = slice(start, start + len(row.type_ids))
    np.testing.assert_array_equal(line["input_ids"][here], row.masked.ids)
    np.testing.assert_array_equal(line["token_type_ids"][here], row.type_ids)
    assert line["attention_mask"][here].all()
    assert np.atleast_1d(line["weights"])[slot] == 1
    assert line["sentence_weights"][slot] == (row.label is not None)
    assert line["sentence_labels"][slot] == (row.label or 0)
    if "segment_ids" in line:
        assert (line["segment_ids"][here] == slot + 1).all()
        np.testing.assert_array_equal(line["position_ids"][here], np.arange(len(row.type_ids)))
    asked = (line["masked_positions"] >= start) & (line["masked_positions"] < here.stop) & (line["masked_weights"] > 0)
    np.testing.assert_array_equal(line["masked_positions"][asked], row.masked.positions + start)
    np.testing.assert_array_equal(line["masked_labels"][asked], row.masked.labels)


def check_filler(batch: dict) -> None:
    empty = batch["attention_mask"] == 0
    assert (batch["input_ids"][empty] == tiny_tokenizer().pad_id).all()
    assert not batch["token_type_ids"][empty].any()
    assert not batch.get("segment_ids", empty * 0)[empty].any()
    unused = batch["example_ids"] < 0
    for name in ("weights", "sentence_weights", "sentence_labels", "cls_positions"):
        assert not batch[name].reshape(unused.shape)[unused].any()
    for name in ("masked_positions", "masked_labels"):
        assert not batch[name][batch["masked_weights"] == 0].any()
    # Nothing is asked of a place that holds no text, and every hidden token is asked for.
    places = np.take_along_axis(batch["attention_mask"], batch["masked_positions"], axis=1)
    assert (places[batch["masked_weights"] > 0] == 1).all()


def test_rows_read_as_bert_reads_pairs(corpus):
    tokenizer, rows = tiny_tokenizer(), rows_of(corpus)
    for number in range(len(corpus)):
        row = rows.row(number, 0)
        ids = row.masked.ids.copy()
        ids[row.masked.positions] = row.masked.labels
        border = int((row.type_ids == 0).sum())
        assert (ids[0], ids[border - 1], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id, tokenizer.sep_id)
        assert (ids == tokenizer.sep_id).sum() == (1 if row.label is None else 2)
        inner = np.concatenate(
            [ids[border:-1], ids[1 : border - 1]] if row.label else [ids[1 : border - 1], ids[border:-1]]
        )
        assert inner.tolist() == corpus.chunk(number).ids.tolist()


def test_packing_leaves_little_padding(corpus):
    share = {}
    for packed in (False, True):
        run = pretraining_batches(rows_of(corpus), SIZE, packed=packed)
        masks = [batch["attention_mask"] for batch in islice(run, run.steps_per_epoch - 1)]
        share[packed] = sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)
        assert len({mask.shape for mask in masks}) <= (1 if packed else 4)
    assert share[True] > 0.9 > share[False]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_batches_do_not_depend_on_the_number_of_processes(corpus, count, packed):
    def run(**share):
        batches = pretraining_batches(rows_of(corpus, "next"), SIZE, packed=packed, **share)
        return islice(batches, batches.steps_per_epoch + 3)

    parts = [run(process_index=index, process_count=count) for index in range(count)]
    for batch, *shares in zip(run(), *parts, strict=True):
        same(batch, {name: np.concatenate([share[name] for share in shares]) for name in batch})


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_run_resumes_exactly_at_every_position(corpus, packed):
    whole = list(islice(pretraining_batches(rows_of(corpus), SIZE, packed=packed), 40))
    cut = pretraining_batches(rows_of(corpus), SIZE, packed=packed)
    for position in range(0, 38, 5):
        cut.set_state({**cut.get_state(), "next_batch": position})
        resumed = pretraining_batches(rows_of(corpus), SIZE, packed=packed)
        resumed.set_state(json.loads(json.dumps(cut.get_state())))
        for ours, expected in zip(islice(resumed, 2), whole[position:], strict=False):
            same(ours, expected)


def test_epochs_and_seeds_hide_other_tokens_of_the_same_text(corpus):
    rows = rows_of(corpus)
    assert any((rows.row(n, 0).masked.ids.tolist() != rows.row(n, 1).masked.ids.tolist()) for n in range(9))
    other = rows_of(corpus, seed=4)
    assert any((rows.row(n, 0).masked.ids.tolist() != other.row(n, 0).masked.ids.tolist()) for n in range(9))


@pytest.mark.parametrize(
    ("change", "name"),
    [({"seed": 4}, "seed"), ({"sentences": "none"}, "sentences"), ({"masking": Masking("words")}, "unit")],
)
def test_a_position_in_other_batches_is_refused(corpus, change, name):
    state = pretraining_batches(rows_of(corpus), SIZE).get_state()
    with pytest.raises(UserError, match=f"another {name}"):
        pretraining_batches(rows_of(corpus, **change), SIZE).set_state(state)


def test_held_out_batches_hold_every_chunk_once_with_the_masks_of_epoch_0(corpus):
    rows, seen = rows_of(corpus), []
    for batch in held_out_batches(rows, SIZE):
        check_filler(batch)
        for line in np.flatnonzero(batch["weights"]):
            number = int(batch["example_ids"][line, 0])
            seen.append(number)
            check_slot({name: array[line] for name, array in batch.items()}, 0, rows.row(number, 0))
    assert sorted(seen) == list(range(len(corpus)))
