"""Quantise a model: a fine-tuned model and text in, a model of integers out.

    bertjax quantize --model=runs/finetune/bundle --data.train=demo --data.eval=demo --out=runs/quantize
    bertjax quantize --config=qbert --model=runs/finetune/bundle --data.train=train.tsv --out=runs/mixed

Without training the text is only needed to find the ranges of activations (`activations="fixed"`); labels are not
needed. With `mean_bits`, each layer of the encoder gets as many bits as it needs. With `qat`, the model is trained with
its rounding in place and learns from a teacher (--losses): itself before quantisation, or --teacher. In `compress` the
teacher is the first fine-tuned model of the run.
"""

from bertjax.engine.command_line import run
from bertjax.engine.record import begin, finish
from bertjax.jobs.data import Text, score_of
from bertjax.jobs.quantize import quantise
from bertjax.recipes.quantize import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out, text = as_path(config.out), Text.of(config.data, verbose=config.compile_only is None, model=config.model)
    if begin(out, config, text.reader):
        return
    model, train, held_out = quantise(config, text)
    score = score_of(model, held_out)
    finish(out, score, train=train.encoded.fingerprint, eval=held_out.encoded.fingerprint)


if __name__ == "__main__":
    run(main, __doc__)
