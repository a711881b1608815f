"""Fine-tune a BERT on a task: text with labels in, a model folder out.

    bertjax finetune --model=demo --data.train=demo --data.eval=demo --epochs=2 --out=runs/finetune
    bertjax finetune --model=hf:bert-base-uncased --data.train=train.tsv --data.eval=dev.tsv

The finished model is OUT/bundle, its score is in OUT/run.json, and OUT/metrics.jsonl has the loss of every tenth step.
The same command again continues an interrupted run.
"""

from bertjax.engine.command_line import run
from bertjax.engine.record import begin, finish
from bertjax.jobs.data import Text
from bertjax.jobs.finetune import prepare, train_soup
from bertjax.jobs.training import train
from bertjax.recipes.finetune import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out, text = as_path(config.out), Text.of(config.data, verbose=config.compile_only is None)
    if begin(out, config, text.reader):
        return
    prepared = prepare(config, text)
    model = train_soup(config, text) if config.model_soup > 1 else train(config, config.out, prepared)
    finish(out, prepared.score(model), **prepared.fingerprints)


if __name__ == "__main__":
    run(main, __doc__)
