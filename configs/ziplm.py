"""ZipLM (Kurtic, Frantar & Alistarh 2023): heads and neurons are removed where a measured table of times says that it
pays, and the weights that stay make up for them; a family of models, each trained from the one before it.

    bertjax latency --model=TEACHER --data.eval=SST-2/dev.tsv --data.max_length=64 --out=runs/latency
    bertjax prune --config=ziplm --model=TEACHER --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv
    bertjax prune --config=ziplm --model=runs/ziplm-2/bundle --teacher=TEACHER --speedup=1.5 --out=runs/ziplm-3 ...

TEACHER is a fine-tuned model, such as runs/tuned/bundle of configs/sst2.py. The second `prune` begins where the first
ended, which gives a model three times as fast as TEACHER (2 x 1.5) after as much training again; `--speedup` counts
from the model that is pruned.

Published, BERT-base: up to 15 times as fast at 95 % of the accuracy, on GLUE (the paper's abstract). These recipes have
not been run to their end yet.
"""

from bertjax.distill.terms import HardLabels, SoftTargets
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.prune import Config

config = Config(
    criterion="second_order",
    speedup=2.0,
    table="runs/latency/latency.json",
    losses=(SoftTargets(0.9, temperature=2.0), HardLabels(0.1)),
    data=Data(train="SST-2/train.tsv", eval="SST-2/dev.tsv", max_length=64, rows=20_000),
    epochs=6,
    packed=True,
    batch_size=8,
    optimiser=Optimiser(learning_rate=1e-4),
    out="runs/ziplm-2",
)
