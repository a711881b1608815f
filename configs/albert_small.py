"""A small ALBERT from nothing, on a CPU: one block of width 128, applied four times, over 8,000 pieces.

    bertjax pretrain --config=albert_small --data.train=TEXT --data.eval=HELD-OUT --out=runs/albert-small
    bertjax finetune --model=runs/albert-small/bundle --data.max_length=64 --optimiser.learning_rate=1e-3 \
        --out=runs/albert-small-reviews

TEXT and HELD-OUT are text files or folders of them, with blank lines between documents.
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
