"""BERT lottery tickets (Chen et al. 2020): MiniLM on SST-2 with 60 % of its matrices at zero, and the controls.

    bertjax ticket --config=ticket --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv
    bertjax ticket --config=ticket:one_shot
    bertjax ticket --config=ticket:random
    bertjax ticket --config=ticket:shuffled
    bertjax ticket --config=ticket:no_rewinding
    bertjax evaluate --model=DENSE --against runs/ticket/bundle runs/ticket-random/bundle --data.eval=SST-2/dev.tsv

Six iterations of one epoch, each of which prunes a tenth of the original weights. `ticket:bert_base` has the published
numbers: iterations of three epochs at a rate of 2e-5 without warm-up and weight decay, texts of 128 tokens. For SST-2
the paper reports (table 2) that a ticket of 60 % matches the whole model. MiniLM has the rate of configs/sst2.py.

As in the official code, the task head keeps its trained value in a rewind, and each iteration begins at the peak of a
learning rate that decays over all of them. The ticket is then trained with a new head and a complete decay. DENSE is
the same fine-tuning without a ticket:

    bertjax finetune --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv --data.max_length=64 --epochs=1 \
        --optimiser.learning_rate=1e-4 --optimiser.warmup=0 --optimiser.weight_decay=0 --out=runs/dense

The same ticket on another task:

    bertjax finetune --model=demo --ticket=runs/ticket/ticket.safetensors --data.train=other.tsv --data.eval=dev.tsv

Zeros save no time. These recipes have not been run to their end yet.
"""

from dataclasses import replace

from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.ticket import Config

PUBLISHED = Optimiser(learning_rate=2e-5, warmup=0.0, weight_decay=0.0)

config = Config(
    model="demo",
    data=Data(train="SST-2/train.tsv", eval="SST-2/dev.tsv", max_length=64),
    sparsity=0.6,
    iterations=6,
    decay_over="all",
    epochs=1,
    optimiser=replace(PUBLISHED, learning_rate=1e-4),
    out="runs/ticket",
)
bert_base = replace(
    config,
    model="hf:bert-base-uncased",
    data=replace(config.data, max_length=128),
    epochs=3,
    optimiser=PUBLISHED,
    out="runs/ticket-bert-base",
)
one_shot = replace(config, method="one_shot", out="runs/ticket-one-shot")
random = replace(config, method="random", out="runs/ticket-random")
shuffled = replace(config, method="shuffled", ticket="runs/ticket/ticket.safetensors", out="runs/ticket-shuffled")
no_rewinding = replace(config, rewind=None, out="runs/ticket-no-rewinding")
