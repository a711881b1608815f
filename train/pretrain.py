"""Pre-train a model on raw text: learn a vocabulary, predict masked tokens, tell the order of sentences.

    bertjax pretrain --model=demo --sentences=none --data.train=demo --steps=200 --out=runs/pretrain
    bertjax pretrain --data.train=wiki.txt --data.eval=held-out.txt --vocab_size=8000 --out=runs/new
    bertjax pretrain --config=minilm --data.train=wiki --out=runs/minilm

With a student in the config file, the given model is its teacher: raw text is then enough to make a small model that
can be fine-tuned to any task, as for DistilBERT, MiniLM, MobileBERT and TinyBERT's first stage.

Documents are separated by blank lines (in tables and TFDS, each row is one). Vocabulary and tokens are stored once, in
$BERTJAX_CACHE. The finished model is OUT/bundle; `bertjax finetune --model=OUT/bundle` begins with it. At the end the
loss on the masked tokens of --data.eval is printed, with the entropy of their unigram frequencies, which a model that
ignores the context can reach. The same command again continues an interrupted run.
"""

from bertjax.engine.command_line import run
from bertjax.engine.record import begin, finish
from bertjax.jobs.pretrain import prepare
from bertjax.jobs.training import train
from bertjax.recipes.pretrain import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out = as_path(config.out)
    if begin(out, config):
        return
    prepared = prepare(config)
    model = train(config, config.out, prepared)
    finish(out, prepared.score(model), **prepared.fingerprints)


if __name__ == "__main__":
    run(main, __doc__)
