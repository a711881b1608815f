"""The shares of tokens with the fewest FLOPs whose loss of score held-out text certifies to be within a bound.

For each fraction of the FLOPs to remove (`LADDER`) the shares are searched. From the smallest fraction on they are
certified (`bertjax.metrics.bound`), each by the score of the model with its tokens really dropped.

Candidates must not depend on the text that certifies them. Shares that change its predictions least would lose less on
this text than on other text, even though the search reads no label. So the search has the training text, where only its
choice can suffer from a model that is too confident, and the certificate has all of the held-out text. With half of
it, even shares that change no prediction would be certified to twice the bound alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bertjax.errors import UserError
from bertjax.jobs.data import Split, predict_split, require_other_text, short
from bertjax.jobs.token_search import dropping, of_all_layers, search_settings
from bertjax.recipes.drop_tokens import Config
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bertjax.bundle import Bundle
    from bertjax.report.token_ladder import Rung
    from bertjax.text.encode import Encoded
    from bertjax.text.facts import Facts
    from bertjax.token_dropping.search import Shares


def certified(config: Config, model: Bundle, train: Split, held_out: Split) -> Shares:
    """The shares with the fewest FLOPs that the held-out text certifies; the report shows what was tried.

    Raises:
      UserError: Nothing is certified.
    """
    from bertjax.engine.record import update_record
    from bertjax.metrics.bound import in_order, why_none

    assert config.bound is not None
    assert config.held_out is not None
    why = "The shares are searched on one text and certified on another, which was not trained on."
    require_other_text(held_out, config.held_out, train, "--data.train", why)
    whole = predict_split(model, held_out)
    kept, rungs = in_order(rungs_of(config, model, train.encoded, held_out, whole), config.bound)
    why = "" if kept else why_none(rungs[0], config.bound, len(whole[1]), "the most tokens")
    update_record(as_path(config.out), ladder=[dataclasses.asdict(one) for one in rungs])
    report_ladder(config, rungs, kept, why, train, held_out, whole)
    if kept is None:
        raise UserError(f"no model is made, as no shares of tokens are certified: {why}. See {config.out}/report.md.")
    return kept.shares


def rungs_of(
    config: Config, model: Bundle, encoded: Encoded, held_out: Split, whole: tuple[Any, Any]
) -> Iterator[Rung]:
    """Each rung of the ladder, searched on `encoded` and measured on the held-out text, of which `whole` are the whole
    model's predictions and the labels."""
    from bertjax.engine.log import note
    from bertjax.metrics.scores import score
    from bertjax.metrics.uncertainty import paired_difference_interval
    from bertjax.report.token_ladder import Rung
    from bertjax.token_dropping.costs import tokens_left
    from bertjax.token_dropping.search import ladder

    (full, labels), metric = whole, held_out.encoded.task.metric
    for one in ladder(**search_settings(config, model, encoded)):
        smaller = dropping(config, model, of_all_layers(model, one.shares))
        left = tokens_left(smaller.config, held_out.encoded.lengths)
        assert smaller.config.retention is not None
        assert left is not None
        fewer, _ = predict_split(smaller, held_out)
        value, loss = score(metric, fewer, labels), paired_difference_interval(metric, full, fewer, labels)
        rung = Rung(smaller.config.retention.shares, left, value, score(metric, full, labels) - value, loss)
        note(f"{left.flops_text} of the FLOPs: {metric} {value:.4f}, at most {loss[1]:.4f} lost")
        yield rung


def report_ladder(
    config: Config,
    rungs: tuple[Rung, ...],
    kept: Rung | None,
    why_none: str,
    train: Split,
    held_out: Split,
    whole: tuple[Any, Any],
) -> None:
    """Writes and prints OUT/report.md and OUT/report.json."""
    from bertjax.engine.fields import to_dict
    from bertjax.engine.log import note
    from bertjax.engine.record import versions
    from bertjax.metrics.scores import score
    from bertjax.report.parts import write_table
    from bertjax.report.token_ladder import TokenLadder, ladder_table

    assert config.bound is not None
    task = held_out.encoded.task
    report = TokenLadder(
        task=f"{task.kind} of {config.held_out}",
        metric=task.metric,
        bound=config.bound,
        score=score(task.metric, *whole),
        certified=kept and kept.shares,
        why_none=why_none,
        finetune_after=config.finetune_after,
        rungs=rungs,
        config=to_dict(config),
        versions=versions(),
        texts=facts_of_both(config, train, held_out),
    )
    note(write_table(report, ladder_table(report), report.texts, as_path(config.out)))


def facts_of_both(config: Config, train: Split, held_out: Split) -> tuple[Facts, ...]:
    """The summary of the text that was searched on, and of that which certifies."""
    from bertjax.text.facts import facts_of

    searched = facts_of("train", short(config.data.train), *train, config.data.max_length)
    certifying = facts_of("held_out", short(str(config.held_out)), *held_out, config.data.max_length, train.examples)
    return searched, certifying
