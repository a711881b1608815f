"""LayerDrop (Fan, Grave & Joulin 2019): one training, several depths; MiniLM on SST-2, distilled.

    bertjax distill --config=layerdrop --model=TEACHER --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv
    bertjax prune --config=layerdrop:half --model=runs/layerdrop/bundle --out=runs/half
    bertjax prune --config=layerdrop:searched --model=runs/layerdrop/bundle --out=runs/searched
    bertjax prune --model=runs/layerdrop/bundle --keep_layers=0,1,3,5 --finetune_after=False --out=runs/four

TEACHER is a fine-tuned model of the same tokenizer, such as runs/tuned/bundle of configs/sst2.py. A control of each
depth, trained for as many steps without LayerDrop:

    bertjax distill --config=layerdrop:control --model=TEACHER --student.num_hidden_layers=3 --out=runs/three

A depth of half the layers is best trained at a rate of 0.5, a modest cut at 0.1 to 0.2. The published code reports that
dropping layers in fine-tuning alone works less well than in pre-training. These recipes have not been run to their end
yet.
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
