"""ALBERT-xlarge from nothing, with the numbers of its paper (Lan et al. 2020, section 4.1): 58,724,864 parameters.

    bertjax pretrain --config=albert_xlarge --data.train=FOLDER --out=runs/albert-xlarge

FOLDER holds text files with blank lines between documents; the paper took English Wikipedia and BooksCorpus. A batch
has 4,096 rows of 512 pieces: on few devices raise --micro_batches, which costs time and changes nothing else. Dropout
is BERT's 0.1; the second version of the published weights was trained without it, on more text and for longer.

Not run: tests check that the encoder has the published number of parameters and that the whole step can be traced.
"""

from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.pretrain import Config, Shape, Text
from bertjax.text.masking import Masking

config = Config(
    shape=Shape(
        embedding_size=128,
        hidden_size=2048,
        num_hidden_layers=24,
        num_hidden_groups=1,
        num_attention_heads=16,
        intermediate_size=8192,
        hidden_dropout=0.1,
        attention_dropout=0.1,
    ),
    vocab_size=30_000,
    data=Text(train="text", max_length=512),
    sentences="order",
    masking=Masking(unit="ngrams", rate=0.15),
    steps=125_000,
    batch_size=4096,
    micro_batches=256,
    optimiser=Optimiser(rule="lamb", learning_rate=1.76e-3, warmup=0.025, weight_decay=0.01, epsilon=1e-6),
    dtype="bfloat16",
    remat=True,
    save_every=5000,
    out="runs/albert-xlarge",
)
