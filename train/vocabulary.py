"""Leave out of a model's vocabulary what the texts at hand never use: a smaller folder, and the same answers.

    bertjax vocabulary --model=runs/tuned/bundle --data.train=demo --data.eval=demo --out=runs/fewer-words

Nothing is trained. Texts whose pieces all stay are answered exactly as before; other words are spelled with the pieces
that are left, which costs a shallow model more than a deep one: look at the score. The result is OUT/bundle.

The head stays as it is. Of a model that answers nothing about texts yet (pre-trained, or without a head) there is no
score, and the texts may be raw: whatever `bertjax pretrain` reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bertjax.errors import UserError
from bertjax.paths import at

from .common import Data

TRAINS = False


@dataclass(frozen=True)
class Vocabulary:
    """Pruning the vocabulary, as a stage of `compress`."""

    name: str = "fewer-words"
    """What the result is called in the report."""

    def run(self, context: Any) -> None:
        """The stage: prunes the context's model to the pieces of the training texts."""
        from .processes import alone

        config = Config(self.name, model=context.model, data=context.data, out=context.out)
        alone(lambda: main(config, score=False))


@dataclass(frozen=True)
class Config(Vocabulary):
    """Pruning of the vocabulary."""

    model: str = "runs/quickstart/stages/2-student/bundle"
    """The model: a folder or hf:NAME."""
    data: Data = field(default_factory=Data)
    out: str = "runs/vocabulary"
    """Folder for the result."""


def main(config: Config, score: bool = True) -> None:
    import bertjax
    from bertjax.bundle import HEAD_OF_KIND, stored_config
    from bertjax.share import prune_vocabulary

    from .data import open_model, read_split, score_of, tell_first, training_examples, training_task
    from .log import note
    from .run import begin, finish

    out = at(config.out)
    if begin(out, config):
        return
    task = None
    if stored_config(config.model).architecture.endswith(tuple(HEAD_OF_KIND.values())):
        bundle, task = open_model(config.model, training_task(config.data), 0)
        if score and not bundle.fresh:
            tell_first(config.data, config.model, task)
        examples = training_examples(config.data, task)
        texts = [*examples.texts, *(examples.pairs or ())]
    else:
        bundle, texts = bertjax.load(config.model), raw_texts(config.data)
    smaller = prune_vocabulary(bundle, texts)
    note(f"{smaller.config.vocab_size} of {bundle.config.vocab_size} pieces stay")
    bertjax.save(smaller, out / "bundle")
    result = {}
    if score and task and not bundle.fresh:
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


if __name__ == "__main__":
    from .settings import run

    run("vocabulary")
