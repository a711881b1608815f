"""Block movement pruning (Lagunas, Charlaix, Sanh & Rush 2021): neurons and heads of a fine-tuned MiniLM get learned
scores while it learns from itself as it was; those with the lowest are removed.

    bertjax distill --config=block_movement --model=TEACHER --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv
    bertjax distill --config=block_movement:hybrid --model=TEACHER ...
    bertjax distill --config=block_movement:filled --model=TEACHER --student.init_from=runs/hybrid/bundle ...

TEACHER is a fine-tuned model, such as runs/tuned/bundle of configs/sst2.py. `hybrid` is the published form: blocks of
32 x 32 in attention and neurons, by soft movement; `filled` trains its result on as a dense model. Zeros inside of
matrices that stay save no time; what is removed does.

Published, BERT-base on SQuAD (the authors' results, an RTX 3090): 74 % of the encoder's weights gone, 2.44 times as
fast at F1 87.7 (whole: 88.5); MNLI 74 %, 2.40 times as fast at 83.1 (84.6). These recipes have not been run to their
end yet.
"""

from dataclasses import replace

from bertjax.distill.terms import HardLabels, SoftTargets
from bertjax.prune import BlockMovement
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student

config = Config(
    student=Student(num_hidden_layers=6),
    losses=(SoftTargets(0.9, temperature=2.0), HardLabels(0.1)),
    data=Data(train="SST-2/train.tsv", eval="SST-2/dev.tsv", max_length=64, rows=20_000),
    epochs=6,
    packed=True,
    batch_size=8,
    optimiser=Optimiser(learning_rate=1e-4),
    transforms=(BlockMovement(sparsity=0.6, end=0.6),),
    out="runs/block-movement",
)
hybrid = replace(
    config, transforms=(BlockMovement(sparsity=0.6, end=0.6, method="soft", attention=32),), out="runs/hybrid"
)
filled = replace(
    config, student=Student(init_from="runs/hybrid/bundle", as_is=True), transforms=(), epochs=2, out="runs/filled"
)
