"""The report on a ladder of shares of tokens: what each costs in score, and the one that keeps the bound."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertjax.report.number_text import metric_name, points, points_with_interval
from bertjax.report.parts import certificate
from bertjax.report.table import Table, cells_of
from bertjax.text.facts import Facts
from bertjax.token_dropping.costs import TokensLeft


@dataclass(frozen=True)
class Rung:
    """Shares of tokens, and what they cost on the text that certifies."""

    shares: tuple[float, ...]
    tokens_left: TokensLeft
    score: float
    loss: float
    """The score of the whole model minus this one."""
    loss_ci95: tuple[float, float]


@dataclass(frozen=True)
class TokenLadder:
    """What `report.json` of a certified token dropping holds."""

    task: str
    metric: str
    bound: float
    score: float
    """Of the whole model."""
    certified: tuple[float, ...] | None
    """The shares that keep the bound with the fewest FLOPs."""
    why_none: str
    finetune_after: bool
    rungs: tuple[Rung, ...]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    texts: tuple[Facts, ...] = ()


def ladder_table(ladder: TokenLadder) -> Table:
    """One line for the whole model, and one for each rung."""
    columns = {
        "FLOPs left": lambda rung: rung.tokens_left.flops_text,
        "mean tokens after each layer": lambda rung: rung.tokens_left.tokens_text,
        metric_name(ladder.metric): lambda rung: points(rung.score),
        "loss [95 %]": lambda rung: points_with_interval(rung.loss, rung.loss_ci95),
        "certified": lambda rung: "yes" if rung.shares == ladder.certified else "",
    }
    headings, rows = cells_of(ladder.rungs, columns)
    whole = ("100 %", "all", points(ladder.score), "-", "")
    kept = [f"{one.tokens_left.flops_text} of the FLOPs" for one in ladder.rungs if one.shares == ladder.certified]
    trained = " and was trained after that, which is not certified" if ladder.finetune_after else ""
    otherwise = f"no model is made: {ladder.why_none}"
    bundle = f"drops tokens so{trained}"
    note = certificate("fraction of the FLOPs", ladder.bound, "".join(kept), bundle, otherwise)
    return Table(headings, (whole, *rows), title=f"{ladder.task}: token dropping", notes=(note,))
