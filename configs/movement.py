"""Movement pruning (Sanh, Wolf & Rush 2020): MiniLM on SST-2 with a tenth of the encoder's weights, distilled.

    bertjax distill --config=movement --model=TEACHER --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv
    bertjax distill --config=movement:soft --model=TEACHER ...
    bertjax distill --config=movement:magnitude --model=TEACHER ...

TEACHER is a fine-tuned model of the same tokenizer, such as runs/tuned/bundle of configs/sst2.py. The student begins as
the pre-trained model and is fine-tuned, pruned and distilled in one run. Published: 6 to 10 epochs, scores at a rate of
1e-2, embeddings frozen, cubic schedule. Here the masks are computed every tenth update, because on two cores finding
them takes about as long as a step. Rounding joins in the same step: add
`bertjax.quantize.transforms.FakeQuantize(activations="token")` to `transforms`, after `Movement`.

Sparse weights save space and no time: the folder of `bertjax quantize` holds no zeros, and an encoder with a tenth of
its weights in 8 bits is about 20 times smaller there (docs/quantization.md). SST-2, the 872 dev sentences, one seed:

    docs/results/movement.json
    method                      zeros    accuracy [95 %]
    teacher                       0 %  90.9 [88.8, 92.8]
    magnitude                  90.0 %  84.3 [81.7, 86.6]
    hard movement              90.0 %  50.9 [47.5, 54.3]
    soft movement, 90 % asked  96.7 %  82.5 [79.8, 84.9]

With six passes over 20,000 sentences, 3,168 updates, hard movement unlearns everything as soon as a fifth of the
weights are pruned, and does not recover. The same happens in PyTorch with masks like those of the published code (on
labels, 800 updates: the loss is that of guessing once a third is pruned). The published runs have 55,000 updates and
more; for short ones magnitude or soft movement is the method. The row of soft movement was measured when its penalty
alone was steered, which overshot; now the threshold is, too, and a run ends with the zeros that were asked for.
"""

from dataclasses import replace

from bertjax.distill.terms import HardLabels, SoftTargets
from bertjax.prune import Movement
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student

HARD = Movement(sparsity=0.9, every=10)

config = Config(
    student=Student(init_from="demo", as_is=True),
    losses=(SoftTargets(0.9), HardLabels(0.1)),
    data=Data(train="SST-2/train.tsv", eval="SST-2/dev.tsv", max_length=64, rows=20_000),
    epochs=6,
    packed=True,
    batch_size=8,
    optimiser=Optimiser(learning_rate=1e-4),
    transforms=(HARD,),
    out="runs/movement",
)
soft = replace(config, transforms=(replace(HARD, method="soft"),), out="runs/movement-soft")
magnitude = replace(config, transforms=(replace(HARD, method="magnitude"),), out="runs/movement-magnitude")
