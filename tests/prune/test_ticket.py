"""Lottery tickets: masks against torch, and files that cannot be mistaken."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch.nn.utils import prune as torch_prune

import bertjax
from bertjax import UserError
from bertjax.learn.transform import Update
from bertjax.params import flatten, map_with_path, unflatten
from bertjax.prune import Ticket
from bertjax.prune.masks import sparsity_of
from bertjax.prune.ticket import (
    PRUNABLE,
    Snapshot,
    fitting_masks,
    random_masks,
    read_ticket,
    rewound,
    shuffled,
    unpruned,
    without_smallest,
    write_ticket,
)
from bertjax.recipes.ticket import Config, LotteryTicket
from bertjax.storage.tensors import stored_arrays
from tests.model.tiny import tiny

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params() -> Any:
    return tiny(hidden_size=20, num_attention_heads=2)[1]  # the number of prunable weights is a multiple of 10


def test_the_prunable_matrices_are_those_of_the_official_code(params: Any):
    parts = (
        "attention/query",
        "attention/key",
        "attention/value",
        "attention/output",
        "ffn/intermediate",
        "ffn/output",
    )
    expected = {f"encoder/layer_{layer}/{part}/kernel" for layer in range(2) for part in parts} | {"pooler/kernel"}
    assert set(flatten(unpruned(params))) == expected
    assert set(flatten(unpruned(params, ("pooler/kernel", "pooler/bias")))) == expected - {"pooler/kernel"}


def test_masks_of_ten_iterations_are_those_of_torch(params: Any):
    """The official code: each iteration trains, then `global_unstructured` prunes 1 / (10 - r) of what remains."""
    masks, rng = unpruned(params), np.random.default_rng(3)
    paths = list(flatten(masks))
    layers = [torch.nn.Linear(*flatten(masks)[path].shape) for path in paths]
    whole = sum(mask.size for mask in flatten(masks).values())
    assert whole % 10 == 0
    for number in range(1, 10):
        trained = {path: rng.normal(size=mask.shape).astype(np.float32) for path, mask in flatten(masks).items()}
        for path, layer in zip(paths, layers, strict=True):
            target: Any = layer.weight_orig if hasattr(layer, "weight_orig") else layer.weight
            target.data = torch.tensor(np.ascontiguousarray(trained[path].T))
            layer(torch.zeros(1, layer.in_features))  # multiplies it with the mask, as the training does
        amount = 1 / (10 - (number - 1))
        torch_prune.global_unstructured(
            [(layer, "weight") for layer in layers], torch_prune.L1Unstructured, amount=amount
        )
        before, masks = flatten(masks), without_smallest(masks, unflatten(trained), 0.9 * number / 9)
        for path, layer in zip(paths, layers, strict=True):
            expected = dict(layer.named_buffers())["weight_mask"].numpy().T.astype(bool)
            np.testing.assert_array_equal(flatten(masks)[path], expected)
            assert (flatten(masks)[path] <= before[path]).all()  # nested
        assert sum(int((~mask).sum()) for mask in flatten(masks).values()) == whole * number // 10


def test_a_random_mask_has_as_many_zeros_and_a_shuffled_matrix_the_same_entries(params: Any):
    dense = unpruned(params)
    masks = random_masks(dense, 0.6, 0)
    whole = sum(mask.size for mask in flatten(dense).values())
    assert sum(int((~mask).sum()) for mask in flatten(masks).values()) == round(0.6 * whole)
    shares = [1 - mask.mean() for mask in flatten(masks).values()]
    assert 0.4 < min(shares) <= max(shares) < 0.8  # everywhere, in no order
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (masks, random_masks(dense, 0.6, 1))), strict=True))
    other = flatten(shuffled(params, dense, 0))
    for path, leaf in flatten(params).items():
        if path in flatten(dense):
            assert (other[path] != leaf).any()
            np.testing.assert_array_equal(np.sort(other[path].ravel()), np.sort(leaf.ravel()))
        else:
            np.testing.assert_array_equal(other[path], leaf)


def test_a_rewind_keeps_the_head_if_asked_and_nothing_else(params: Any):
    trained = map_with_path(lambda _, leaf: leaf + 1, params)
    for source, expected in ((trained, trained), (None, params)):
        back = flatten(rewound(params, source))
        for path, leaf in back.items():
            head = path.startswith("classifier/")
            np.testing.assert_array_equal(leaf, flatten(expected if head else params)[path])


def test_a_snapshot_is_the_weights_after_its_part_of_the_steps():
    one = Snapshot(0.3)
    _, state = one.init(KEY, None, {"w": np.zeros(2)})  # type: ignore[arg-type]
    seen = []
    for step in range(10):
        update = Update(jax.numpy.int32(step), KEY, 10, None)
        state = one.advance(update, {"w": np.full(2, float(step))}, {}, state)
        seen.append(float(state["w"][0]))
    assert seen == [0, 0, 0, 3, 3, 3, 3, 3, 3, 3]


def written(folder: Path, params: Any, sparsity: float = 0.6) -> Path:
    """A ticket of the smallest weights."""
    masks = without_smallest(unpruned(params), params, sparsity)
    write_ticket(folder / "ticket.safetensors", masks, params, {"model": "the/model", "method": "one_shot"})
    return folder / "ticket.safetensors"


def test_a_file_holds_bits_and_how_it_was_made(params: Any, tmp_path: Path):
    file = written(tmp_path, params)
    found, masks = read_ticket(file), without_smallest(unpruned(params), params, 0.6)
    jax.tree.map(np.testing.assert_array_equal, found.masks, masks)
    assert found.made_by == {"model": "the/model", "method": "one_shot"}
    assert found.sparsity == pytest.approx(sparsity_of(masks)) == pytest.approx(0.6, abs=1e-3)
    arrays = stored_arrays(file)
    assert sum(array.nbytes for array in arrays.values()) <= sum(m.size / 8 + 1 for m in flatten(masks).values())


def test_a_ticket_is_for_the_weights_that_it_belongs_to(params: Any, tmp_path: Path):
    transform = Ticket(str(written(tmp_path, params)))
    _, state = transform.init(KEY, None, params)  # type: ignore[arg-type]
    assert set(transform.zeroed(params)) == set(flatten(state)) == set(flatten(unpruned(params)))
    smaller = {name: part for name, part in params.items() if name not in ("pooler", "classifier")}
    _, state = transform.init(KEY, None, smaller)  # type: ignore[arg-type]
    assert "pooler/kernel" not in flatten(state)
    path = "encoder/layer_1/ffn/output/kernel"
    changed = map_with_path(lambda at, leaf: np.nextafter(leaf, np.float32(9)) if at == path else leaf, params)
    other = tiny(hidden_size=40, num_attention_heads=2)[1]
    without = {**params, "encoder": {"layer_0": params["encoder"]["layer_0"]}}
    for wrong, why in (
        (changed, rf"belongs to other weights than those of this model: its {path} has other values\.\n"),
        (other, r"the shape of .* is \(40, 40\), the mask's \(20, 20\), and 12 more differences"),
        (without, r"it has no encoder/layer_1/attention/key/kernel, and 5 more differences"),
    ):
        with pytest.raises(UserError, match=why) as caught:
            transform.init(KEY, None, wrong)  # type: ignore[arg-type]
        assert "Begin with the model that the ticket was made for: the/model." in str(caught.value)
        assert len(str(caught.value).splitlines()) == 3


def test_what_is_no_ticket_is_one_clear_error(params: Any, tmp_path: Path):
    file = written(tmp_path, params)
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[-1] ^= 128
    bertjax.save(bertjax.Bundle(tiny()[0].config, tiny()[1]), tmp_path / "model")
    cases = {
        "truncated": (content[:-9], "is damaged"),
        "short": (content[:5], "is damaged"),
        "empty": (b"", "is damaged"),
        "text": (b"a table of words\n", "is damaged"),
        "flipped": (bytes(flipped), "its masks do not fit its list of matrices; make it again"),
        "a model": ((tmp_path / "model" / "model.safetensors").read_bytes(), "is no lottery ticket; give the file"),
    }
    bits = {"a": np.zeros(2, np.uint8), "a/b": np.zeros(2, np.uint8)}
    for name, shapes, made_by in (
        ("huge", {"a": [1_000_000, 1_000_000]}, "{}"),
        ("beyond integers", {"a": [10**40]}, "{}"),
        ("negative", {"a": [-4, -4]}, "{}"),
        ("nested names", {"a": [16], "a/b": [16]}, "{}"),
        ("not an object", {"a": [16]}, "[1]"),
    ):
        matrices = {path: {"shape": shape, "zeros": 16, "digest": "0"} for path, shape in shapes.items()}
        about = {"format": "bertjax.ticket.1", "sparsity": "0.5", "made_by": made_by, "matrices": json.dumps(matrices)}
        cases[name] = (save(bits, about), "its masks do not fit its list of matrices; make it again")
    for name, (bad, message) in cases.items():
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(UserError, match=message) as caught:
            fitting_masks(tmp_path / name, params)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(UserError, match=r"no lottery ticket at .*nowhere; give the file that `bertjax ticket` writes"):
        read_ticket(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "--sparsity=1.0: expected a fraction of the weights"),
        ({"iterations": 0}, "--iterations=0: expected 1 or more"),
        ({"rewind": 1.0}, "--rewind=1.0: expected a fraction of an iteration, from 0 to below 1, or none"),
        ({"method": "shuffled"}, "give its file as --ticket"),
        ({"ticket": "a.safetensors"}, "only --method=shuffled begins with a ticket. To train one: bertjax finetune"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        LotteryTicket(**settings)
    assert message in str(caught.value)


def test_the_recipes_can_be_read():
    from bertjax.engine.command_line import load_config, parse

    for name in ("config", "bert_base", "one_shot", "random", "shuffled", "no_rewinding"):
        assert load_config(f"ticket:{name}", Config).sparsity == 0.6
    assert parse(Config, ["--rewind=none"]).rewind is None
    assert parse(Config, ["--rewind=0.1"]).rewind == 0.1
    assert LotteryTicket(steps=100, iterations=4).planned_steps(10) == 500


def test_a_ticket_needs_training_to_act():
    from bertjax.recipes.prune import Prune
    from bertjax.recipes.quantize import Quantize

    with pytest.raises(UserError, match="give --qat=ste"):
        Quantize(ticket="a.safetensors")
    with pytest.raises(UserError, match="--finetune_after=False trains nothing"):
        Prune(ticket="a.safetensors", finetune_after=False)
    assert dataclasses.replace(LotteryTicket(), steps=3).all_transforms == ()
    assert PRUNABLE.startswith("^")
