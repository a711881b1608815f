"""LayerDrop (Fan, Grave & Joulin 2019): one training, several depths; MiniLM on SST-2, distilled.

    bertjax distill --config=layerdrop --model=TEACHER --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv
    bertjax prune --config=layerdrop:half --model=runs/layerdrop/bundle --out=runs/half
    bertjax prune --config=layerdrop:searched --model=runs/layerdrop/bundle --out=runs/searched
    bertjax prune --model=runs/layerdrop/bundle --keep_layers=0,1,3,5 --finetune_after=False --out=runs/four

TEACHER is a fine-tuned model of the same tokenizer, such as runs/tuned/bundle of configs/sst2.py. A control of each
depth, trained for as many steps without LayerDrop:

    bertjax distill --config=layerdrop:control --model=TEACHER --student.num_hidden_layers=3 --out=runs/three

A depth of half the layers is best trained at a rate of 0.5, a modest cut at 0.1 to 0.2. The published code reports that
dropping layers in fine-tuning alone works less well than in pre-training.

SST-2, the 872 dev sentences, accuracy, one seed; the teacher has 90.9:

    docs/results/layerdrop.json
    layers  evenly spaced [95 %]    searched [95 %]     control [95 %]
    6          88.8 [86.5, 90.8]                  -                  -
    5          87.4 [85.0, 89.5]  87.6 [85.2, 89.7]  89.1 [86.8, 91.1]
    4          86.8 [84.4, 89.0]  87.8 [85.5, 89.9]  88.5 [86.2, 90.6]
    3          85.2 [82.7, 87.5]  86.2 [83.8, 88.5]  86.8 [84.4, 89.0]

Searched layers against the control, paired: three layers 0.6 points lower [-1.4, 2.6], four 0.7 [-1.2, 2.6], five 1.5
[-0.3, 3.3]. One training serves all depths; the whole model is 2.1 points [0.4, 4.0] below its teacher.
"""

from dataclasses import replace

from bertjax.distill.terms import HardLabels, SoftTargets
from bertjax.prune import LayerDrop
from bertjax.recipes import prune
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student

DATA = Data(train="SST-2/train.tsv", eval="SST-2/dev.tsv", max_length=64, rows=20_000)

config = Config(
    student=Student(init_from="demo", as_is=True),
    losses=(SoftTargets(0.9), HardLabels(0.1)),
    data=DATA,
    epochs=6,
    packed=True,
    batch_size=8,
    optimiser=Optimiser(learning_rate=1e-4),
    transforms=(LayerDrop(0.2),),
    out="runs/layerdrop",
)
control = replace(config, student=Student(num_hidden_layers=6, init_from="demo"), transforms=())
half = prune.Config(data=DATA, layers=0.5, criterion="evenly_spaced", finetune_after=False)
searched = prune.Config(data=DATA, layers=0.5, criterion="leave_one_out", iterations=3, finetune_after=False)
