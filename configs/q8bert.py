"""Q8BERT: eight bits for every dense layer and every table, learned in one short fine-tuning (Zafrir et al. 2019).

    bertjax quantize --config=q8bert --model=runs/tuned/bundle --data.train=train.tsv --data.eval=dev.tsv
    bertjax quantize --config=q8bert:small --model=runs/quickstart/stages/2-student/bundle

One scale for a matrix, symmetric, which follows the largest weight in every step; one range for what a product reads,
an average over text in which later batches count more. As published: three epochs, batches of 32, 2e-5, from a model
that was fine-tuned before; SST-2 92.24 where floating point has 92.36 (mean of five).

Two departures. The paper's average goes on while training, with a decay of 0.9999; here it is found before and then
fixed, so that what is trained is what ships. And the outputs of dense layers are not rounded a second time: the next
product rounds what it reads. `small` needs no training data but the demo's.
"""

import dataclasses

from bertjax.distill.terms import HardLabels
from bertjax.quantized.formats import Format
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.quantize import Config

MATRIX = Format(bits=8, scheme="symmetric", block_rows=None, block_cols=None)

config = Config(
    name="q8bert",
    weights=((r"^embeddings/.*embedding$", MATRIX), (r"^(encoder|pooler)/.*kernel$", MATRIX)),
    weight_range="min_max",
    activation_range="moving_average",
    qat="ste",
    losses=(HardLabels(),),
    epochs=3,
    batch_size=32,
    optimiser=Optimiser(learning_rate=2e-5),
    out="runs/q8bert",
)
small = dataclasses.replace(
    config,
    model="runs/quickstart/stages/2-student/bundle",
    data=Data(train="demo", eval="demo", max_length=32),
    epochs=1,
    out="runs/q8bert-small",
)
