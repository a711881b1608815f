"""A model without the tokens that the texts never use."""

from collections.abc import Iterator

from bertjax.errors import UserError
from bertjax.recipes.data import Data
from bertjax.recipes.stage import Context
from bertjax.recipes.vocabulary import Config, Vocabulary
from bertjax.storage.paths import as_path


def main(config: Config, score: bool = True) -> None:
    import bertjax
    from bertjax.bundle import HEAD_OF_KIND, stored_config
    from bertjax.engine.log import note
    from bertjax.engine.record import begin, finish
    from bertjax.jobs.data import open_model, read_split, score_of, tell_first, training_examples, training_task
    from bertjax.share import prune_vocabulary

    out = as_path(config.out)
    if begin(out, config):
        return
    task = None
    if stored_config(config.model).architecture.endswith(tuple(HEAD_OF_KIND.values())):
        bundle, task = open_model(config.model, training_task(config.data), 0)
        if score and not bundle.newly_initialized:
            tell_first(config.data, config.model, task)
        examples = training_examples(config.data, task)
        texts = [*examples.texts, *(examples.pairs or ())]
    else:
        bundle, texts = bertjax.load(config.model), raw_texts(config.data)
    smaller = prune_vocabulary(bundle, texts)
    note(f"{smaller.config.vocab_size} of {bundle.config.vocab_size} pieces stay")
    bertjax.save(smaller, out / "bundle")
    result = {}
    if score and task and not bundle.newly_initialized:
        result = {
            task.metric: score_of(smaller, read_split(config.data, config.data.eval, task, smaller.tokenizer, "test"))
        }
    finish(out, result)


def raw_texts(data: Data) -> Iterator[str]:
    """Everything that stands in `data.train`."""
    from itertools import chain

    from bertjax.text.documents import read_documents

    if data.rows is not None:
        raise UserError(f"--data.rows={data.rows}: only examples of a task are chosen; leave it out.")
    return chain.from_iterable(read_documents(data.train, data.text))


def run(recipe: Vocabulary, context: Context) -> None:
    """The stage: prunes the context's model to the pieces of the training texts."""
    from bertjax.engine.hosts import on_main_process

    config = Config(recipe.name, model=context.model, data=context.data, out=context.out)
    on_main_process(lambda: main(config, score=False))
