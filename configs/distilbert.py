"""DistilBERT from BERT-base on raw text (Sanh et al. 2019): 66,362,880 parameters without the head that guesses words.

    bertjax pretrain --config=distilbert --data.train=FOLDER --out=runs/distilbert

The student begins with six layers of its teacher (0, 2, 4, 7, 9 and 11, those of the published script, where the paper
speaks of one out of two) and learns three things: the teacher's probabilities at every real token (weight 5,
temperature 2), the hidden words (2), and the direction of the last hidden states (1). Rate 5e-4 after a warm-up of 5 %,
Adam's second moment 0.98, epsilon 1e-6, no decay, norm of the gradient at most 5, three epochs, 512 tokens. Eight
devices with batches of 5, accumulated 50 times, make 2,000 rows a step; that is 50 micro-batches here. The paper took
English Wikipedia and BooksCorpus.

It differs from the published code in which words are hidden: there rare ones more often, here all alike. The first
token type, which DistilBERT has none of, is added to the positions.

    bertjax pretrain --model=demo --sentences=none --data.train=demo --steps=2000 --out=runs/words
    bertjax pretrain --config=distilbert:small --out=runs/distilbert-small

is the same at a size that fits a laptop, on the demo, whose model first has to learn to guess words.

Not run at full size: tests check the number of parameters and that the whole step can be traced.
"""

from dataclasses import replace

from bertjax.distill.terms import LastHiddenState, MLMSoftTargets
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.pretrain import Config, Text
from bertjax.student import Student
from bertjax.text.masking import Masking

shape = Student(num_hidden_layers=6, pairing=(0, 2, 4, 7, 9, 11), family="distilbert")

config = Config(
    model="hf:bert-base-uncased",
    data=Text(train="text", max_length=512),
    sentences="none",
    masking=Masking(unit="tokens", rate=0.15),
    mlm_weight=2.0,
    student=shape,
    losses=(MLMSoftTargets(weight=5.0, temperature=2.0, everywhere=True), LastHiddenState(weight=1.0)),
    epochs=3,
    batch_size=2000,
    micro_batches=50,
    optimiser=Optimiser(learning_rate=5e-4, warmup=0.05, weight_decay=0.0, b2=0.98, epsilon=1e-6, clip=5.0),
    dtype="bfloat16",
    save_every=1000,
    out="runs/distilbert",
)

small = replace(
    config,
    model="runs/words/bundle",
    data=Text(train="demo", eval="demo", max_length=64),
    student=replace(shape, num_hidden_layers=3, pairing="uniform"),
    batch_size=32,
    micro_batches=1,
    dtype="float32",
    out="runs/distilbert-small",
)
