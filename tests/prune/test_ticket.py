"""Lottery tickets: masks against torch, files that cannot be mistaken, and trainings that begin where they should."""

import dataclasses
import json
import signal
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
from bertjax.jobs import ticket as jobs
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
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.ticket import Config, LotteryTicket
from bertjax.storage.tensors import stored_arrays
from tests.model.tiny import tiny
from tests.train.test_scripts import check_restarts, common, start, wait_for
from tests.train.tiny import context, metrics, run, weights, write_model, write_table
from train import distill, finetune, ticket

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


# The command, in this process.


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ticket")
    write_model(folder / "model", architecture="BertModel")
    for name, seed in (("train", 0), ("eval", 1), ("other", 2)):
        write_table(folder / f"{name}.tsv", 48, seed=seed, filler=(10, 12))
    return folder


def data(work: Path, train: str = "train") -> Data:
    return Data(train=str(work / f"{train}.tsv"), eval=str(work / "eval.tsv"), max_length=16)


RECIPE: dict[str, Any] = {"steps": 4, "batch_size": 8, "save_every": 2, "optimiser": Optimiser(learning_rate=0.01)}


def found(work: Path, out: str, **settings: Any) -> Path:
    """The folder that the command leaves."""
    given = {"model": str(work / "model"), "data": data(work), "iterations": 3, **RECIPE, **settings}
    ticket.main(Config(out=str(work / out), **given))
    return work / out


@pytest.fixture(scope="module")
def straight(work: Path) -> Path:
    return found(work, "straight")


def matrices(folder: Path) -> dict[str, np.ndarray]:
    return flatten(bertjax.load(folder).params)


def zeros_of(folder: Path) -> dict[str, np.ndarray]:
    return {path: ~mask for path, mask in flatten(read_ticket(folder / "ticket.safetensors").masks).items()}


@pytest.mark.slow
def test_each_iteration_prunes_an_equal_part_and_rewinds(work: Path, straight: Path):
    initial, shares = matrices(work / "model"), []
    places = [straight / "iteration-1", straight / "iteration-2", straight]
    for number, folder in enumerate(places, start=1):
        zeros = zeros_of(folder)
        shares.append(sum(map(np.sum, zeros.values())) / sum(zero.size for zero in zeros.values()))
        trained = matrices(straight / f"iteration-{number}" / "bundle")
        if number > 1:
            for path, zero in zeros_of(places[number - 2]).items():
                assert (zeros[path] >= zero).all()
                assert not trained[path][zero].any()
        if number < 3:
            begins = matrices(folder / "start")
            assert all((begins[path] == leaf).all() for path, leaf in initial.items())
            assert (begins["classifier/kernel"] == trained["classifier/kernel"]).all()
        assert not (straight / f"iteration-{number}" / "checkpoints").exists()
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.6], atol=1e-3)
    shipped = matrices(straight / "bundle")
    for path, zero in zeros_of(straight).items():
        np.testing.assert_array_equal(shipped[path] == 0, zero)
    assert read_ticket(straight / "ticket.safetensors").made_by["model"] == str(work / "model")


@pytest.mark.slow
def test_the_last_training_is_a_fine_tuning_with_the_ticket(work: Path, straight: Path):
    given: Any = {"model": str(work / "model"), "data": data(work), "ticket": str(straight / "ticket.safetensors")}
    for out in ("again", "once-more"):
        finetune.main(finetune.Config(out=str(work / out), **given, **RECIPE))
    assert weights(work / "again") == weights(work / "once-more") == weights(straight)


@pytest.mark.slow
def test_the_head_goes_back_and_the_rate_falls_over_all_iterations_if_asked(work: Path):
    constant = Optimiser(learning_rate=0.01, warmup=0.0)
    out = found(work, "official", iterations=2, head="rewound", decay_over="all", optimiser=constant)
    first = matrices(out / "iteration-1" / "start")
    assert not (first["classifier/kernel"] == matrices(out / "iteration-1" / "bundle")["classifier/kernel"]).any()
    for number in (1, 2):
        rates = [line["learning_rate"] for line in metrics(out / f"iteration-{number}") if "learning_rate" in line]
        assert rates[-1] == pytest.approx(0.01 * (1 - 0.5 * 3 / 4))  # of its last step
    rates = [line["learning_rate"] for line in metrics(out) if "learning_rate" in line]
    assert rates[-1] == pytest.approx(0.01 / 4)


@pytest.mark.slow
def test_weights_go_back_to_a_part_of_the_first_iteration(work: Path):
    """At a constant rate, half of an iteration is a training of half as many steps."""
    constant = Optimiser(learning_rate=0.01, warmup=0.0, decay="constant")
    out = found(work, "late", iterations=2, rewind=0.5, optimiser=constant)
    half: dict[str, Any] = {
        "model": str(work / "model"),
        "data": data(work),
        **RECIPE,
        "steps": 2,
        "optimiser": constant,
    }
    finetune.main(finetune.Config(out=str(work / "half"), **half))
    assert weights(work / "half") == (out / "start" / "model.safetensors").read_bytes()
    begins, next_start = matrices(out / "start"), matrices(out / "iteration-1" / "start")
    initial = matrices(work / "model")
    trained = matrices(out / "iteration-1" / "bundle")
    for path, leaf in begins.items():
        if not path.startswith("classifier/"):
            np.testing.assert_array_equal(next_start[path], leaf)
            assert path not in initial or (initial[path] != leaf).any()
            assert (trained[path] != leaf).any()
    assert read_ticket(out / "ticket.safetensors").made_by["model"] == str(out / "start")


@pytest.mark.slow
def test_without_rewinding_each_iteration_goes_on(work: Path):
    out = found(work, "ordinary", iterations=2, rewind=None)
    assert not (out / "iteration-1" / "start").exists()
    last = matrices(out / "iteration-2" / "bundle")
    fitting_masks(out / "ticket.safetensors", bertjax.load(out / "iteration-2" / "bundle").params)
    kept = {path: ~zero for path, zero in zeros_of(out).items()}
    shipped = matrices(out / "bundle")
    for path, mask in kept.items():
        assert np.abs(last[path][mask]).min() >= 0
        np.testing.assert_array_equal(shipped[path] != 0, mask)


@pytest.mark.slow
def test_the_controls_differ_in_masks_or_weights_alone(work: Path, straight: Path):
    pretrained = matrices(work / "model")
    one_shot, random = found(work, "one-shot", method="one_shot"), found(work, "random", method="random")
    file = str(straight / "ticket.safetensors")
    other = found(work, "shuffled", method="shuffled", ticket=file)
    rows = [zeros_of(folder) for folder in (straight, one_shot, random, other)]
    assert len({sum(int(zero.sum()) for zero in zeros.values()) for zeros in rows}) == 1
    largest = max(np.abs(pretrained[path][zero]).max() for path, zero in rows[1].items())
    assert all(np.abs(pretrained[path][~zero]).min() >= largest for path, zero in rows[1].items())
    for path, zero in rows[0].items():
        np.testing.assert_array_equal(rows[3][path], zero)
    assert not (one_shot / "iteration-1").exists()
    assert matrices(other / "start").keys() == pretrained.keys()  # of the same kind, so that any task may begin with it
    fitting_masks(other / "ticket.safetensors", bertjax.load(other / "start").params)
    with pytest.raises(UserError, match="belongs to other weights"):
        fitting_masks(file, bertjax.load(other / "start").params)
    for folder, zeros in zip((one_shot, random, other), rows[1:], strict=True):
        shipped = matrices(folder / "bundle")
        assert all(((shipped[path] == 0) == zero).all() for path, zero in zeros.items())


@pytest.mark.slow
def test_a_run_that_is_stopped_between_iterations_goes_on_where_it_was(work: Path, straight: Path, monkeypatch: Any):
    normal, done = jobs.train_unscored, []

    def interrupted(config: Any, *given: Any) -> None:
        if config.out.endswith("iteration-3") and len(done) < 3:
            raise KeyboardInterrupt
        done.append(config.out)
        normal(config, *given)

    monkeypatch.setattr(jobs, "train_unscored", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found(work, "between")
    before = {path: path.stat().st_mtime_ns for path in (work / "between" / "iteration-1").rglob("*") if path.is_file()}
    out = found(work, "between")
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing of it was done again
    assert weights(out) == weights(straight)
    for ours, theirs in zip(zeros_of(out).items(), zeros_of(straight).items(), strict=True):
        assert ours[0] == theirs[0]
        np.testing.assert_array_equal(ours[1], theirs[1])
    starts = [line["event"] for line in metrics(out / "iteration-1") if line.get("event") in ("start", "restart")]
    assert starts == ["start"]


@pytest.mark.slow
def test_stopped_by_signals_inside_of_an_iteration_and_after_it_it_ends_with_the_same_bits(work: Path):
    flags = [f"--model={work / 'model'}", *common(work), "--steps=6", "--save_every=2", "--iterations=2"]
    run("ticket", *flags, f"--out={work / 'whole'}")
    out = work / "stopped"
    for moment in ("iteration-1/checkpoints/2", "iteration-1/ticket.safetensors"):
        with start(work, "ticket", [*flags, f"--out={out}"]) as process:
            wait_for(out / moment, process)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=300)
        assert process.returncode in (0, 143), errors
    done = run("ticket", *flags, f"--out={out}")
    assert weights(out) == weights(work / "whole")
    for ours, theirs in zip(zeros_of(out).items(), zeros_of(work / "whole").items(), strict=True):
        assert ours[0] == theirs[0]
        np.testing.assert_array_equal(ours[1], theirs[1])
    for folder in (out / "iteration-1", out / "iteration-2", out):
        check_restarts(folder, save_every=2)
    if "finished already" not in done.stderr.splitlines()[-1]:
        assert "expect no speed-up. The ticket on another task:" in done.stderr
        assert f"bertjax finetune --model={work / 'model'} --ticket={out / 'ticket.safetensors'}" in done.stderr
    other = run("ticket", *flags, f"--out={out}", "--sparsity=0.7", check=False)
    assert (other.returncode, "sparsity: 0.6 -> 0.7" in other.stderr) == (2, True)


@pytest.mark.slow
def test_a_ticket_on_another_task_keeps_exactly_its_zeros(work: Path, straight: Path):
    from bertjax.distill.terms import SoftTargets
    from bertjax.student import Student

    file = str(straight / "ticket.safetensors")
    given: Any = {"data": data(work, "other"), "ticket": file, **RECIPE}
    hard = {**given, "optimiser": Optimiser(learning_rate=0.02, weight_decay=0.5)}
    finetune.main(finetune.Config(model=str(work / "model"), out=str(work / "transferred"), **hard))
    begin = Student(init_from=str(work / "model"), as_is=True)
    distill.main(
        distill.Config(
            model=str(straight / "bundle"), student=begin, losses=(SoftTargets(),), out=str(work / "student"), **given
        )
    )
    for folder in ("transferred", "student"):
        shipped = matrices(work / folder / "bundle")
        for path, zero in zeros_of(straight).items():
            np.testing.assert_array_equal(shipped[path] == 0, zero)
    with pytest.raises(UserError, match=r"belongs to other weights(.|\n)*Begin with the model .*model\.\n"):
        finetune.main(finetune.Config(model=str(straight / "bundle"), out=str(work / "refused"), **given))


@pytest.mark.slow
def test_as_a_stage_it_counts_all_of_its_trainings(work: Path, straight: Path):
    stage = LotteryTicket(**RECIPE, iterations=2)
    result = stage.run(context(str(work / "model"), data(work), work / "stage"))
    assert result.epochs == pytest.approx(3 * 4 / 6)
    assert result.bundle is not None
    assert bertjax.load(result.bundle).config.labels == ("bad", "good")
    assert stage.run(context(str(work / "model"), data(work), work / "stage")) == result


def test_a_ticket_needs_training_to_act():
    from bertjax.recipes.prune import Prune
    from bertjax.recipes.quantize import Quantize

    with pytest.raises(UserError, match="give --qat=ste"):
        Quantize(ticket="a.safetensors")
    with pytest.raises(UserError, match="--finetune_after=False trains nothing"):
        Prune(ticket="a.safetensors", finetune_after=False)
    assert dataclasses.replace(LotteryTicket(), steps=3).all_transforms == ()
    assert PRUNABLE.startswith("^")
