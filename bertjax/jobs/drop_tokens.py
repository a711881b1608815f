"""Token dropping: the shares of tokens are given, searched or certified, and the model is trained with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertjax.errors import UserError
from bertjax.jobs.data import Split, Text, open_model, require_other_text, tokenizer_of, without_threshold
from bertjax.jobs.recovery import run_stage, smaller_and_recovered
from bertjax.jobs.token_ladder import certified
from bertjax.jobs.token_search import dropping, searched
from bertjax.recipes.drop_tokens import Config, DropTokens
from bertjax.recipes.stage import Context, StageResult
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.text.tasks import Task


def drop_tokens(config: Config, text: Text) -> tuple[Bundle, Split]:
    """Finds the shares, trains if configured, and saves the model as `config.out/bundle`; `config.out/cut` holds it
    before training. Returns the model and the evaluation examples."""
    model, task = open_model(config.model, text.task(), config.seed, dtype=config.dtype)
    if model.newly_initialized:
        raise UserError(f"{config.model} has no trained head; fine-tune it first (bertjax finetune).")
    if model.config.retention is not None:
        raise UserError(f"{config.model} drops tokens already; give the model that keeps all of them.")
    if not config.shares and config.flops is None and config.bound is None:
        raise UserError(
            "how many tokens are to go on? Give --flops, as --flops=0.5, or --bound, or --shares for each layer."
        )
    held_out = text.held_out(task, tokenizer_of(model))
    if text.verbose:
        text.describe(text.training(task, tokenizer_of(model), labelled=False), held_out)

    def make() -> Bundle:
        return with_retention(config, without_threshold(model, config.model), task, text)

    return smaller_and_recovered(config, text, make), held_out


def with_retention(config: Config, model: Bundle, task: Task, text: Text) -> Bundle:
    """The model that drops tokens, before training."""
    from bertjax.engine.log import note
    from bertjax.engine.record import update_record
    from bertjax.token_dropping.costs import tokens_left

    tokenizer = tokenizer_of(model)
    split = train = text.training(task, tokenizer, labelled=False)
    if config.held_out:
        labelled = config.bound is not None
        split = text.held_out(task, tokenizer, config.held_out, "validation", labelled)
        why = "The shares must be chosen on one text and measured on another."
        require_other_text(split, config.held_out, text.held_out(task, tokenizer), "--data.eval", why)
    if config.bound is None:
        shares = config.shares or searched(config, model, split.encoded)
    else:
        shares = certified(config, model, train, split)
    smaller = dropping(config, model, shares)
    left = tokens_left(smaller.config, split.encoded.lengths)
    assert left is not None
    update_record(as_path(config.out), shares=shares, **vars(left))
    note(f"shares of the tokens that go on: {', '.join(f'{share:g}' for share in shares)}")
    note(f"a text has {split.encoded.lengths.mean():.1f} tokens on average; {left}")
    return smaller


def run(recipe: DropTokens, context: Context) -> StageResult:
    """The stage: a model that drops tokens, in its folder."""
    return run_stage(recipe, context, Config, drop_tokens)
