"""Stages in order: what each is given."""

from dataclasses import dataclass
from pathlib import Path

import bertjax
from bertjax.share import prune_vocabulary
from tests.train.tiny import write_model
from train import quantize
from train.common import Data
from train.finetune import Finetune
from train.stages import Context, run_in_order


@dataclass(frozen=True)
class Noted:
    """A stage that remembers what it was given."""

    name: str
    given: list[Context]

    def run(self, context: Context) -> None:
        self.given.append(context)


class Tuned(Finetune):
    def run(self, context: Context) -> None:
        """It leaves nothing here."""


def test_who_knew_the_task_first_is_the_model_given_or_what_became_of_it_by_fine_tuning(tmp_path: Path):
    given: list[Context] = []
    start, noted = Context("given", Data(), str(tmp_path)), [Noted(name, given) for name in ("one", "two")]
    run_in_order(noted, start)
    run_in_order([Tuned(), *noted], start)
    assert [one.first for one in given] == ["given"] * 2 + [str(tmp_path / "1-teacher" / "bundle")] * 2
    assert given[-1].model == str(tmp_path / "2-one" / "bundle")


def test_rounding_learns_from_the_first_model_where_it_reads_the_same_pieces(tmp_path: Path, monkeypatch):
    first = write_model(tmp_path / "first")
    bertjax.save(bertjax.load(first), tmp_path / "smaller")
    bertjax.save(prune_vocabulary(bertjax.load(first), ["the fine film"]), tmp_path / "fewer")
    asked: list[quantize.Config] = []
    monkeypatch.setattr(quantize, "main", lambda config, score: asked.append(config))
    for model in ("first", "smaller", "fewer"):
        context = Context(str(tmp_path / model), Data(), str(tmp_path / "out"), first=str(first))
        quantize.Quantize().run(context)
    assert [config.teacher for config in asked] == [None, str(first), None]
