"""Texts to embed: pairs become two rows, which share a batch, and the labels of single texts are left out."""

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.text.batches import batches
from bertjax.text.encode import encode_examples
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Task
from tests.text.tiny import tiny_tokenizer

TASK = Task(kind="embedding")
ROWS = [{"sentence1": f"the cat {'sat ' * i}", "sentence2": "the " * (1 + i % 3), "score": f"0.{i}"} for i in range(9)]


def test_a_label_of_single_texts_is_no_score_and_that_of_pairs_is():
    alone = [{"text": "a b", "label": "1"}, {"text": "c", "label": "0"}]
    assert load_examples(alone, TASK).labels is None
    assert infer_task(alone, TASK).metric == "similarity_spearman"
    examples = load_examples(ROWS, TASK)
    assert examples.labels == [float(f"0.{i}") for i in range(9)]
    assert infer_task(ROWS, TASK).metric == "spearman"
    with pytest.raises(UserError, match="expected a finite number"):
        load_examples([{"sentence1": "a", "sentence2": "b", "score": "high"}], TASK)


def test_the_texts_of_a_pair_are_two_rows_with_the_score_of_the_pair():
    examples = load_examples(ROWS, TASK)
    encoded = encode_examples(examples, examples.task, tiny_tokenizer(), 12)
    assert encoded.paired
    assert encoded.example.tolist() == [i for i in range(9) for _ in range(2)]
    np.testing.assert_array_equal(encoded.labels, np.repeat(np.array(examples.labels, np.float32), 2))
    alone = encode_examples(load_examples([row["sentence2"] for row in ROWS], TASK), TASK, tiny_tokenizer(), 12)
    assert not alone.paired
    for number in range(9):
        ours, theirs = encoded.offsets[2 * number + 1 :][:2], alone.offsets[number:][:2]
        np.testing.assert_array_equal(encoded.ids[slice(*ours)], alone.ids[slice(*theirs)])
    assert not encoded.type_ids.any()


def test_every_batch_holds_both_texts_of_its_pairs_also_in_micro_batches():
    encoded = encode_examples(load_examples(ROWS, TASK), TASK, tiny_tokenizer(), 12)
    found = batches(encoded, 4, seed=0, buckets=(6, 12), epochs=1)
    seen = []
    for batch in found:
        ids = batch["example_ids"]
        for micro in (ids, ids[0::2], ids[1::2]):
            real = micro[micro >= 0]
            assert sorted(real ^ 1) == sorted(real)
        seen += ids[ids >= 0].tolist()
    assert sorted(seen) == list(range(18))
    with pytest.raises(UserError, match="expected an even number"):
        batches(encoded, 3, seed=0, buckets=(12,))
