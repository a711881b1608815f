"""What the text was taken for is said before anything is learned from it, and stands in the report."""

import dataclasses
import json
from pathlib import Path

import pytest

from bertjax.distill.terms import SoftTargets
from bertjax.jobs.data import Text, describe_for
from bertjax.recipes.data import Data
from bertjax.recipes.finetune import Finetune
from bertjax.student import Student
from tests.train.test_evaluate import write_headed
from tests.train.tiny import context, write_model, write_table
from train import compare, compress, distill, evaluate, exits, finetune, prune, quantize, ticket, vocabulary


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Training text with two rows on whose label nobody agreed, and text to score on of which half is training text."""
    work = tmp_path_factory.mktemp("told")
    train = write_table(work / "train.tsv", 20).read_text()
    other = write_table(work / "other.tsv", 8, seed=1).read_text().split("\n")
    (work / "train.tsv").write_text(train + "a zebra\t-\nthe film\t-\n")
    (work / "eval.tsv").write_text(
        "\n".join([*other[:5], *(line.replace("\t", " \t") for line in train.split("\n")[1:5])]) + "\n"
    )
    write_headed(work)
    write_model(work / "plain")
    return work


def data(work: Path) -> Data:
    return Data(train=str(work / "train.tsv"), eval=str(work / "eval.tsv"), max_length=10)


TASK = 'classification of "sentence" by "label": 2 classes, bad 10, good 10; score: accuracy (otherwise: --data.text,'
SEEN = "4 of 8 texts of eval.tsv (eval) are also in train.tsv (train): the score is not measured on unseen text"


def check(said: str) -> None:
    """Once, and nothing else of the texts."""
    lines = said.split("\n")
    assert sum(line.startswith(TASK) for line in lines) == 1, said
    train = [line for line in lines if line.startswith("train: train.tsv, 20 texts, ")]
    assert [line.endswith('left out 2 of 22 whose label is "-"') for line in train] == [True]
    assert sum(line.startswith("eval: eval.tsv, 8 texts, ") for line in lines) == 1
    assert lines.count(f"warning: {SEEN}") == 1


class Begun(Exception):
    """The work begins."""


def begins(*_, **__):
    raise Begun


@pytest.mark.slow
def test_every_command_says_it_before_its_work_begins(work, tmp_path, capsys, monkeypatch):
    for where in (
        "engine.loop.fit",
        "jobs.quantize.post_training",
        "jobs.prune.prune_model",
        "engine.log.Log",
        "jobs.compare.run_in_order",
    ):
        monkeypatch.setattr(f"bertjax.{where}", begins)
    monkeypatch.setattr("bertjax.share.prune_vocabulary", begins)
    plain, headed, common = str(work / "plain"), str(work / "model" / "bundle"), {"data": data(work)}
    given = {"plain": {"model": plain, **common}, "headed": {"model": headed, **common}}
    student = {"student": Student(num_hidden_layers=1), "losses": (SoftTargets(),), "store": False}
    commands = {
        "finetune": lambda out: finetune.main(finetune.Config(out=out, **given["plain"])),
        "runs": lambda out: finetune.main(finetune.Config(out=out, model_soup=2, **given["plain"])),
        "distill": lambda out: distill.main(distill.Config(out=out, **given["headed"], **student)),
        "quantize": lambda out: quantize.main(
            quantize.Config(out=out, calibration_examples=8, activations="none", **given["headed"])
        ),
        "prune": lambda out: prune.main(prune.Config(out=out, neurons=0.5, **given["headed"])),
        "ticket": lambda out: ticket.main(ticket.Config(out=out, **given["plain"])),
        "exits": lambda out: exits.main(exits.Config(out=out, **given["headed"])),
        "vocabulary": lambda out: vocabulary.main(vocabulary.Config(out=out, **given["headed"])),
        "compress": lambda out: compress.main(compress.Config(out=out, **given["plain"])),
        "compare": lambda out: compare.main(compare.Config(out=out, **given["plain"])),
    }
    for name, command in commands.items():
        with pytest.raises(Begun):
            command(str(tmp_path / name))
        check(capsys.readouterr().err)
    with pytest.raises(Begun):  # a stage of another run, which has said it
        Finetune().run(context(plain, data(work), tmp_path / "stage"))
    assert "eval.tsv" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_says_what_was_cut_left_out_and_seen_before(work, tmp_path, capsys):
    evaluate.main(evaluate.Config(str(work / "model" / "bundle"), (), data(work), str(tmp_path)))
    check(capsys.readouterr().err)
    report = json.loads((tmp_path / "report.json").read_text())
    train, scored = report["texts"]
    assert (train["examples"], train["notes"]) == (20, ['left out 2 of 22 whose label is "-"'])
    assert (train["seen"], scored["seen"], scored["examples"], scored["max_length"]) == (None, 4, 8, 10)
    assert train["cut"] > 0
    written = (tmp_path / "report.md").read_text()
    assert f"**Warning: {SEEN}**." in written
    assert f"{train['cut']} cut at 10 tokens" in written


def test_of_text_that_nothing_was_learned_from_nothing_is_said(work, capsys):
    given = dataclasses.replace(data(work), train="demo")
    text = Text.of(given)
    (facts,) = describe_for(text, str(work / "model" / "bundle"), text.task(given.eval), learned=False)
    assert (facts.role, facts.seen) == ("eval", None)
    assert "warning" not in capsys.readouterr().err
