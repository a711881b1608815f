"""Remove from a model's vocabulary the tokens that the training text never uses: a smaller folder, the same outputs.

    bertjax vocabulary --model=runs/finetune/bundle --data.train=demo --data.eval=demo --out=runs/vocabulary

Nothing is trained. A text whose tokens are all kept gets exactly the same outputs as before; other words are split into
the remaining tokens, which costs a shallow model more than a deep one: check the score. The result is OUT/bundle.

The head stays as it is. A model without a trained head for a task (pre-trained, or without a head) gets no score, and
the text may be raw: whatever `bertjax pretrain` reads.
"""

from bertjax.engine.command_line import run
from bertjax.engine.record import begin, finish
from bertjax.jobs.data import Text, score_of
from bertjax.jobs.vocabulary import prune
from bertjax.recipes.vocabulary import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out, text = as_path(config.out), Text.of(config.data, model=config.model)
    if begin(out, config, text.reader):
        return
    smaller, held_out = prune(config, text)
    finish(out, {} if held_out is None else score_of(smaller, held_out))


if __name__ == "__main__":
    run(main, __doc__, trains=False)
