"""Prune a model: layers, heads and neurons are removed; single weights are set to zero.

    bertjax prune --model=runs/finetune/bundle --heads=0.5 --neurons=0.5 --out=runs/prune
    bertjax prune --model=runs/finetune/bundle --speedup=2 --data.train=train.tsv --data.eval=dev.tsv --out=runs/fast

The least important parts are removed (`--criterion`, measured on training examples), at once or in several iterations,
each with new scores. Then the smaller model is trained with the whole one as its teacher, as in `bertjax distill`.
Layers of different shapes are described by the config, and each is as fast as it is small. With --speedup=2 as many
heads and neurons are removed as make the model twice as fast on this machine, which is measured.
"""

from bertjax.engine.command_line import run
from bertjax.engine.record import begin, finish
from bertjax.jobs.data import Text, score_of
from bertjax.jobs.prune import prune
from bertjax.recipes.prune import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out, text = as_path(config.out), Text.of(config.data, verbose=config.compile_only is None, model=config.model)
    if begin(out, config, text.reader):
        return
    pruned, held_out = prune(config, text)
    if held_out is None:
        finish(out, {})
    else:
        finish(out, score_of(pruned, held_out), eval=held_out.encoded.fingerprint)


if __name__ == "__main__":
    run(main, __doc__)
