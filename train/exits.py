"""Give a model exits: heads after its inner layers, so that easy examples can exit early.

    bertjax exits --model=runs/finetune/bundle --data.train=demo --data.eval=demo --out=runs/exits
    bertjax exits --model=demo --method=joint --head=shared_pooler --epochs=3 --out=runs/pabee

Four ways to train them (--method): in two stages, a fine-tuned model frozen and its exits trained on the labels
(DeeBERT); jointly with the model, later exits with larger weights (PABEE); alternating, the last layer in one step and
all heads in the next (BERxiT); or a frozen model whose last layer is the teacher of the exits, which needs no labels
(FastBERT). No example exits early before `bertjax calibrate` has found the threshold on text that was held out.
"""

from bertjax.engine.command_line import run
from bertjax.engine.record import begin, finish
from bertjax.jobs.data import Text
from bertjax.jobs.exits import prepare
from bertjax.jobs.training import train
from bertjax.recipes.exits import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out, text = as_path(config.out), Text.of(config.data, verbose=config.compile_only is None)
    if begin(out, config, text.reader):
        return
    prepared = prepare(config, text)
    model = train(config, config.out, prepared)
    finish(out, prepared.score(model), **prepared.fingerprints)


if __name__ == "__main__":
    run(main, __doc__)
