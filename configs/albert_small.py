"""A small ALBERT from nothing, on a CPU: one block of width 128, applied four times, over 8,000 pieces.

    bertjax pretrain --config=albert_small --data.train=test.txt.gz --data.eval=valid.txt.gz --out=runs/albert-small

Any text will do whose documents have blank lines between them. Here it was WikiText-2 (Merity et al. 2016): its test
file (315,587 pieces in 7,735 chunks) to learn from, its validation file (261,341 pieces) held out, for want of the
training file. Seed 0, 44 minutes beside other jobs that kept two CPU cores busy:

    held-out hidden pieces   loss 5.545 nats (entropy of their own frequencies: 6.135), 24.4 % guessed
    order of two sentences   58.2 % right

So it is 0.59 nats below what a model that ignores the context can reach, after 7.4 passes; the training loss left that
plateau between steps 300 and 600 and was still falling. Part of the gain is cheap: this text spells unknown words
"<unk>", of which each piece gives the others away. Six chunks in ten are a single sentence at 64 pieces, so they have
no order to tell.

It is no better start for film reviews, and a worse one: fine-tuned on the demo (--data.max_length=64 --epochs=2
--optimiser.learning_rate=3e-4), 65.2 % of 1,717 sentences against 71.5 % from random numbers of the same shape
(difference -6.3, interval -8.7 to -4.0). Nor does it help enough to go on with the text of the task itself:

    bertjax pretrain --config=albert_small --model=runs/albert-small/bundle --vocab_size=None --data.train=demo \
        --sentences=none --steps=1200 --batch_size=64 --optimiser.learning_rate=1e-3 --out=runs/albert-small-films

(4 minutes, training loss 7.2 to 5.6) and then three epochs of fine-tuning: 70.8 and 71.5 % at 3e-4 and 1e-3, against
73.5 and 73.2 % from random numbers. A bag of words gets 75.9 %: at this size and with ten thousand sentences single
words decide, and masked text of a few hundred thousand pieces does not teach their sentiment. Much more text was not
tried.
"""

from bertjax.text.masking import Masking
from train.optimiser import Optimiser
from train.pretrain import Config, Shape, Text

config = Config(
    shape=Shape(
        embedding_size=64,
        hidden_size=128,
        num_hidden_layers=4,
        num_hidden_groups=1,
        num_attention_heads=4,
        intermediate_size=512,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    ),
    vocab_size=8000,
    data=Text(train="text", max_length=64),
    sentences="order",
    masking=Masking(unit="ngrams"),
    steps=1800,
    batch_size=32,
    optimiser=Optimiser(learning_rate=1.5e-3),
    save_every=300,
    out="runs/albert-small",
)
