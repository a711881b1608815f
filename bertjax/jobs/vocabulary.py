"""Vocabulary pruning: a model with the tokens of its training text only."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

from bertjax.errors import UserError
from bertjax.jobs.data import Split, Text, open_model, tokenizer_of
from bertjax.jobs.training import result_of
from bertjax.recipes.stage import Context, StageResult
from bertjax.recipes.vocabulary import Config, Vocabulary
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from bertjax.bundle import Bundle


def prune(config: Config, text: Text) -> tuple[Bundle, Split | None]:
    """Saves the model with only the tokens of the training text as `config.out/bundle`. Returns it, and the evaluation
    examples if it has a trained head."""
    import bertjax
    from bertjax.bundle import HEAD_OF_KIND, stored_config
    from bertjax.engine.log import note
    from bertjax.share import prune_vocabulary

    held_out, has_head = None, stored_config(config.model).architecture.endswith(tuple(HEAD_OF_KIND.values()))
    if has_head:
        bundle, task = open_model(config.model, text.task(), 0)
        examples = text.training_examples(task)
        texts: Iterable[str] = [*examples.texts, *(examples.pairs or ())]
        if text.verbose and not bundle.newly_initialized:
            tokenizer = tokenizer_of(bundle)
            text.describe(text.training(task, tokenizer, labelled=False), text.held_out(task, tokenizer))
    else:
        bundle, texts = bertjax.load(config.model), raw_texts(text)
    smaller = prune_vocabulary(bundle, texts)
    note(f"{smaller.config.vocab_size} of {bundle.config.vocab_size} tokens are kept")
    bertjax.save(smaller, as_path(config.out) / "bundle")
    if has_head and not bundle.newly_initialized:
        held_out = text.held_out(task, tokenizer_of(smaller))
    return smaller, held_out


def raw_texts(text: Text) -> Iterable[str]:
    """All text of `data.train`."""
    from bertjax.text.documents import read_documents

    data = text.data
    if data.rows is not None:
        raise UserError(f"--data.rows={data.rows}: it chooses labelled examples, but the text is raw. Leave it out.")
    return chain.from_iterable(read_documents(data.train, data.text, reader=text.reader))


def run(recipe: Vocabulary, context: Context) -> StageResult:
    """The stage: prunes the vocabulary of the context's model to the tokens of the training text."""
    from bertjax.engine.hosts import on_main_process
    from bertjax.engine.record import begin, finish

    config = Config(recipe.name, model=context.model, data=context.data, out=context.out)

    def prune_once() -> None:
        if not begin(as_path(config.out), config, context.reader):
            prune(config, Text.of_context(context))
            finish(as_path(config.out), {})

    on_main_process(prune_once)
    return result_of(context.out, context.data)
