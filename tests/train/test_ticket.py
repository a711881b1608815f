"""The command `bertjax ticket`: iterations that begin where they should, controls, and runs that are stopped."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax import UserError
from bertjax.jobs import ticket as jobs
from bertjax.params import flatten
from bertjax.prune.ticket import (
    fitting_masks,
    read_ticket,
)
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.ticket import Config, LotteryTicket
from tests.train.test_scripts import check_restarts, common, start, wait_for
from tests.train.tiny import context, metrics, run, weights, write_model, write_table
from train import distill, finetune, ticket


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
