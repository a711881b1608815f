"""Packed rows: nothing lost, nothing mixed up, nearly no padding, and the guarantees of plain batches."""

import json
from itertools import islice
from typing import Any

import chex
import jax
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.model import BertConfig, BertForSequenceClassification
from bertjax.text.batches import eval_batches
from bertjax.text.packing import pack_rows, packed_batches
from tests.text.test_batches import same
from tests.text.tiny import made_up, random_lengths
from tests.tolerances import SAME_MATHS

LENGTHS = random_lengths(97, 32)
SIZE, ROW = 4, 40
KINDS = ["classification", "regression", "multi_label", "tokens"]


def run_of(data, **options):
    return packed_batches(data, SIZE, row_length=ROW, seed=2, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_unpacking_an_epoch_gives_back_every_example_exactly_once(kind):
    data = made_up(LENGTHS, kind)
    assert data.labels is not None
    seen = []
    for batch in run_of(data, epochs=1):
        for i, s in np.ndindex(batch["example_ids"].shape):
            row, inside = int(batch["example_ids"][i, s]), batch["segment_ids"][i] == s + 1
            assert batch["weights"][i, s] == (row >= 0) == inside.any()
            if row < 0:
                assert batch["cls_positions"][i, s] == 0
                continue
            seen.append(row)
            tokens = slice(data.offsets[row], data.offsets[row + 1])
            assert batch["input_ids"][i][inside].tolist() == data.ids[tokens].tolist()
            assert batch["token_type_ids"][i][inside].tolist() == data.type_ids[tokens].tolist()
            assert batch["position_ids"][i][inside].tolist() == list(range(LENGTHS[row]))
            assert batch["cls_positions"][i, s] == np.flatnonzero(inside)[0]
            ours = batch["labels"][i][inside] if kind == "tokens" else batch["labels"][i, s]
            np.testing.assert_array_equal(ours, data.labels[tokens if kind == "tokens" else row])
    assert sorted(seen) == list(range(len(LENGTHS)))


def test_padding_and_unused_slots_are_inert():
    for batch in run_of(made_up(LENGTHS, "tokens"), epochs=1):
        padding = batch["segment_ids"] == 0
        for name in ("input_ids", "attention_mask", "token_type_ids", "position_ids"):
            assert not batch[name][padding].any()
        assert (batch["labels"][padding] == -100).all()
        assert batch["attention_mask"][~padding].all()


@pytest.mark.slow
def test_a_model_says_of_a_packed_example_what_it_says_of_it_alone():
    data = made_up(LENGTHS[:30])
    config = BertConfig(
        vocab_size=int(data.ids.max()) + 1,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.2,
    )
    model = BertForSequenceClassification(config)

    @jax.jit
    def logits(params, input_ids, attention_mask, token_type_ids, **packed):
        output: Any = model.apply({"params": params}, input_ids, attention_mask, token_type_ids, **packed)
        return output.logits

    def by_row(run, *extra):
        found = {}
        for batch in run:
            inputs = [batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")]
            said = np.asarray(logits(params, *inputs, **{name: batch[name] for name in extra}))
            found |= {int(row): said[at] for at, row in np.ndenumerate(batch["example_ids"]) if row >= 0}
        return np.stack([found[row] for row in range(len(data))])

    params = jax.jit(model.init)(jax.random.key(0), np.ones((1, 8), np.int32))["params"]
    packed = by_row(run_of(data, epochs=1), "position_ids", "segment_ids", "cls_positions")
    alone = by_row(eval_batches(data, 8, (32,)))
    chex.assert_trees_all_close(packed, alone, **SAME_MATHS)
    assert np.ptp(alone) > 0.1


def test_all_batches_of_all_epochs_have_one_shape_and_epochs_differ():
    data = made_up(LENGTHS)
    run = list(run_of(data, epochs=3))
    assert len({tuple((name, array.shape) for name, array in batch.items()) for batch in run}) == 1
    steps = run_of(data).steps_per_epoch
    assert len(run) == 3 * steps
    orders = {str([batch["example_ids"].tolist() for batch in run[i * steps : (i + 1) * steps]]) for i in range(3)}
    assert len(orders) == 3


@pytest.mark.parametrize("row_length", [32, 40, 128])
@pytest.mark.parametrize("seed", range(3))
def test_packing_equals_a_plain_search_for_the_fullest_row_that_fits(row_length, seed):
    lengths = random_lengths(200, 32, seed)
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in rows if sum(row) + length <= row_length]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            rows.append([length])
    slots = pack_rows(np.array(lengths), row_length)
    falling = np.sort(lengths)[::-1]
    ours = [[int(falling[slot]) for slot in row if slot >= 0] for row in slots]
    assert sorted(map(sum, ours)) == sorted(map(sum, rows))
    assert max(map(sum, ours)) <= row_length
    assert sorted(length for row in ours for length in row) == sorted(lengths)


def test_rows_of_ordinary_lengths_are_at_least_99_per_cent_full():
    lengths = np.array(random_lengths(3000, 64))
    assert lengths.sum() / (128 * len(pack_rows(lengths, 128))) > 0.99


@pytest.mark.parametrize("count", [2, 4])
def test_the_order_does_not_depend_on_the_number_of_processes(count):
    data = made_up(LENGTHS)
    parts = [run_of(data, epochs=2, process_index=index, process_count=count) for index in range(count)]
    for batch, *shares in zip(run_of(data, epochs=2), *parts, strict=True):
        same(batch, {name: np.concatenate([share[name] for share in shares]) for name in batch})


def test_a_run_resumes_exactly_at_every_position():
    data = made_up(LENGTHS)
    whole, cut = list(run_of(data, epochs=2)), run_of(data, epochs=2)
    for position in range(len(whole)):
        resumed = run_of(data, epochs=2)
        resumed.set_state(json.loads(json.dumps(cut.get_state())))
        for ours, expected in zip(islice(resumed, 2), whole[position:], strict=False):
            same(ours, expected)
        next(cut)


def test_a_position_in_rows_of_another_length_is_refused():
    other = packed_batches(made_up(LENGTHS), SIZE, row_length=64, seed=2)
    with pytest.raises(UserError, match="another row_length: 40; here it is 64"):
        other.set_state(run_of(made_up(LENGTHS)).get_state())


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(UserError, match="cannot be packed"):
        run_of(made_up(LENGTHS, "qa"))
    with pytest.raises(UserError, match="at most row_length = 16"):
        packed_batches(made_up(LENGTHS), SIZE, row_length=16, seed=0)
