"""Quantise a model: a fine-tuned model and text in, a model of integers out.

    bertjax quantize --model=runs/finetuned/bundle --data.train=demo --data.eval=demo --out=runs/int8
    bertjax quantize --config=qbert --model=runs/finetuned/bundle --data.train=train.tsv --out=runs/mixed

Without training the text only says in which ranges the inputs of products lie (`activations="fixed"`); labels are not
needed. With `mean_bits`, each layer of the encoder gets as many bits as it needs (bits.py). With `learn`, the model is
trained with its rounding in place, to answer what it answered before (--losses); in `compress` the first model of the
run is asked instead, because other stages may have taken a lot out of it since.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.quantize import main

if __name__ == "__main__":
    run(main, __doc__)
