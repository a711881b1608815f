"""The order of batches: complete, the same for any number of processes, resumable anywhere, in few shapes."""

import json
from itertools import islice

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.text.batches import batches, epoch_plan, eval_batches, steps_per_epoch
from bertjax.text.buckets import length_buckets
from tests.text.tiny import made_up, random_lengths

LENGTHS = random_lengths(83, 40)
BUCKETS = length_buckets(np.array(LENGTHS), 64)
OWN = np.array([min(edge for edge in BUCKETS if edge >= length) for length in LENGTHS])
SIZE = 8
STEPS = 11  # 83 rows: ten batches of 8, and 3 rows more
KINDS = ["classification", "regression", "multi_label", "tokens", "qa"]


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def rows_of(run) -> list[int]:
    return [row for batch in run for row in batch["example_ids"].tolist() if row >= 0]


def test_every_row_appears_once_in_every_epoch():
    run = list(batches(made_up(LENGTHS), SIZE, seed=3, buckets=BUCKETS, epochs=3))
    assert len(run) == 3 * STEPS == 3 * steps_per_epoch(made_up(LENGTHS), SIZE)
    for epoch in range(3):
        assert sorted(rows_of(run[epoch * STEPS : (epoch + 1) * STEPS])) == list(range(83))


def test_every_batch_but_the_last_of_an_epoch_is_full():
    run = list(batches(made_up(LENGTHS), SIZE, seed=3, buckets=BUCKETS, epochs=2))
    filled = [int(batch["weights"].sum()) for batch in run]
    assert filled == ([SIZE] * (STEPS - 1) + [3]) * 2


def test_the_longest_batch_is_found_wherever_it_stands():
    run, untouched = (batches(made_up(LENGTHS), SIZE, seed=3, buckets=BUCKETS) for _ in range(2))
    assert run.longest()["input_ids"].shape == (SIZE, BUCKETS[-1])
    same(next(run), next(untouched))


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16])
def test_few_rows_make_whole_epochs_too(rows):
    run = list(batches(made_up(LENGTHS[:rows]), SIZE, seed=0, buckets=BUCKETS, epochs=2))
    assert len(run) == 2 * -(-rows // SIZE)
    assert sorted(rows_of(run)) == sorted([*range(rows)] * 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_holds_its_rows_unchanged_and_filler_is_inert(kind):
    data = made_up(LENGTHS, kind)
    assert data.labels is not None
    for batch in batches(data, SIZE, seed=1, buckets=BUCKETS, epochs=1):
        length = batch["input_ids"].shape[1]
        for i, row in enumerate(batch["example_ids"].tolist()):
            tokens = [] if row < 0 else range(data.offsets[row], data.offsets[row + 1])
            padding = length - len(tokens)
            assert batch["input_ids"][i].tolist() == [data.ids[p] for p in tokens] + [0] * padding
            assert batch["token_type_ids"][i].tolist() == [data.type_ids[p] for p in tokens] + [0] * padding
            assert batch["attention_mask"][i].tolist() == [1] * len(tokens) + [0] * padding
            assert batch["weights"][i] == (row >= 0)
            if kind == "tokens":
                assert batch["labels"][i].tolist() == [data.labels[p] for p in tokens] + [-100] * padding
            else:
                expected = data.labels[row] if row >= 0 else np.zeros_like(data.labels[0])
                np.testing.assert_array_equal(batch["labels"][i], expected)


@pytest.mark.parametrize(
    ("kind", "dtype", "shape"),
    [
        ("classification", "int32", (SIZE,)),
        ("regression", "float32", (SIZE,)),
        ("multi_label", "float32", (SIZE, 3)),
        ("qa", "int32", (SIZE, 2)),
    ],
)
def test_labels_have_the_shape_of_their_kind(kind, dtype, shape):
    batch = next(batches(made_up(LENGTHS, kind), SIZE, seed=1, buckets=BUCKETS))
    assert (batch["labels"].dtype, batch["labels"].shape) == (dtype, shape)
    assert batch["weights"].dtype == "float32"
    for name in ("input_ids", "attention_mask", "token_type_ids", "example_ids"):
        assert batch[name].dtype == "int32"


def test_there_are_no_more_shapes_than_buckets():
    run = batches(made_up(LENGTHS), SIZE, seed=1, buckets=BUCKETS, epochs=5)
    shapes = {tuple(array.shape for array in batch.values()) for batch in run}
    assert len(shapes) <= len(BUCKETS) == 4


def test_only_what_fills_no_batch_moves_to_a_longer_bucket():
    plan = epoch_plan(OWN, SIZE, seed=1, epoch=0)
    moved = 0
    for rows, padded_to in zip(plan.rows, plan.lengths, strict=True):
        kept = rows[rows >= 0]
        assert (OWN[kept] <= padded_to).all()
        moved += (OWN[kept] < padded_to).sum()
    assert moved <= (SIZE - 1) * (len(BUCKETS) - 1)


def test_epochs_and_seeds_order_the_rows_differently_and_repeatably():

    def order(seed, epoch):
        return epoch_plan(OWN, SIZE, seed, epoch).rows.tolist()

    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) == order(1, 0)


def test_the_order_of_a_seed_is_the_same_everywhere():
    """Written down once: a change would silently reorder the rest of every interrupted run."""
    plan = epoch_plan(np.array([8, 16, 8, 16, 8, 8]), 2, seed=7, epoch=1)
    assert (plan.rows.tolist(), plan.lengths.tolist()) == ([[5, 0], [1, 3], [2, 4]], [8, 16, 8])


@pytest.mark.parametrize("count", [2, 4])
def test_the_order_does_not_depend_on_the_number_of_processes(count):
    data = made_up(LENGTHS)
    whole = batches(data, SIZE, seed=5, buckets=BUCKETS, epochs=2)
    parts = [
        batches(data, SIZE, seed=5, buckets=BUCKETS, epochs=2, process_index=index, process_count=count)
        for index in range(count)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        same(batch, {name: np.concatenate([share[name] for share in shares]) for name in batch})


def test_a_batch_that_processes_cannot_share_evenly_is_refused():
    with pytest.raises(UserError, match="batch_size is 8; expected a multiple of the number of processes, 3"):
        batches(made_up(LENGTHS), SIZE, seed=5, buckets=BUCKETS, process_count=3)


def test_buckets_that_do_not_hold_every_row_are_refused_before_the_first_batch():
    with pytest.raises(UserError, match="longest row, 40"):
        batches(made_up(LENGTHS), SIZE, seed=5, buckets=(16, 32))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_run_resumes_exactly_at_every_position(threads):
    data = made_up(LENGTHS)

    def newly_initialized():
        return batches(data, SIZE, seed=5, buckets=BUCKETS, epochs=2, threads=threads)

    whole, cut = list(newly_initialized()), newly_initialized()
    for position in range(2 * STEPS + 1):
        resumed = newly_initialized()
        resumed.set_state(json.loads(json.dumps(cut.get_state())))
        rest = list(islice(resumed, 3))
        assert len(rest) == min(3, 2 * STEPS - position)
        for ours, expected in zip(rest, whole[position:], strict=False):
            same(ours, expected)
        next(cut, None)


def test_start_is_the_number_of_the_first_batch():
    data = made_up(LENGTHS)
    whole = list(batches(data, SIZE, seed=5, buckets=BUCKETS, epochs=2))
    late = batches(data, SIZE, seed=5, buckets=BUCKETS, epochs=2, start=13)
    assert late.get_state()["next_batch"] == 13
    for ours, expected in zip(late, whole[13:], strict=True):
        same(ours, expected)


def test_a_position_in_other_data_or_another_order_is_refused():
    def run(fingerprint="data", seed=5, batch_size=SIZE, buckets=BUCKETS):
        return batches(made_up(LENGTHS, fingerprint=fingerprint), batch_size, seed=seed, buckets=buckets)

    state = run().get_state()
    with pytest.raises(UserError, match="another data_fingerprint: data; here it is other"):
        run(fingerprint="other").set_state(state)
    with pytest.raises(UserError, match="another seed: 5; here it is 6"):
        run(seed=6).set_state(state)
    with pytest.raises(UserError, match="another batch_size: 8; here it is 4"):
        run(batch_size=4).set_state(state)
    with pytest.raises(UserError, match="another buckets"):
        run(buckets=(40,)).set_state(state)


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.5, 6), (1, STEPS), (1.5, 16)])
def test_a_part_of_an_epoch_is_whole_batches(epochs, steps):
    assert len(list(batches(made_up(LENGTHS), SIZE, seed=5, buckets=BUCKETS, epochs=epochs))) == steps


def test_without_a_number_of_epochs_batches_never_end():
    run = batches(made_up(LENGTHS), SIZE, seed=5, buckets=BUCKETS, start=10**9)
    assert next(run)["weights"].sum() > 0


def test_evaluation_sees_every_row_once_from_short_to_long():
    data = made_up(LENGTHS)
    run = list(eval_batches(data, SIZE, BUCKETS))
    rows = rows_of(run)
    assert sorted(rows) == list(range(83))
    assert [LENGTHS[row] for row in rows] == sorted(LENGTHS)
    assert {batch["input_ids"].shape for batch in run} == {(SIZE, edge) for edge in BUCKETS}
    partial = [batch["input_ids"].shape for batch in run if batch["weights"].sum() < SIZE]
    assert len(partial) == len(set(partial))


def test_evaluation_shares_its_batches_between_processes():
    data = made_up(LENGTHS)
    parts = [eval_batches(data, SIZE, BUCKETS, process_index=index, process_count=2) for index in range(2)]
    for batch, *shares in zip(eval_batches(data, SIZE, BUCKETS), *parts, strict=True):
        same(batch, {name: np.concatenate([share[name] for share in shares]) for name in batch})


def test_rows_without_labels_make_batches_without_labels():
    data = made_up(LENGTHS)
    object.__setattr__(data, "labels", None)
    assert "labels" not in next(batches(data, SIZE, seed=0, buckets=BUCKETS))
