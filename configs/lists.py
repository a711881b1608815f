"""Lists whose cells refer to other cells, copied by a block that decides by itself how often it is applied."""

from bertjax.text.lists import Lists
from train.lists import Config
from train.optimiser import Optimiser

config = Config(
    lists=Lists(shortest=12, longest=16, references=8),
    hidden_size=128,
    intermediate_size=512,
    num_attention_heads=4,
    rounds=8,
    depths=(1, 2, 3, 4, 5, 6, 8),
    bias=-2.0,
    ponder=0.01,
    steps=1000,
    batch_size=32,
    optimiser=Optimiser(learning_rate=1e-3),
    out="runs/lists",
)
