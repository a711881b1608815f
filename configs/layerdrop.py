"""LayerDrop (Fan, Grave & Joulin 2019): one fine-tuning, several depths.

    bertjax finetune --config=layerdrop --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv --out=runs/layerdrop
    bertjax prune --config=layerdrop:half --model=runs/layerdrop/bundle --out=runs/half
    bertjax prune --config=layerdrop:searched --model=runs/layerdrop/bundle --out=runs/searched
    bertjax prune --model=runs/layerdrop/bundle --keep_layers=0,1,3,5 --finetune_after=False --out=runs/four

A depth of half the layers is best trained at a rate of 0.5, a modest cut at 0.1 to 0.2. The published code reports that
dropping layers in fine-tuning alone works less well than in pre-training. These recipes have not been run to their end
yet.
"""

from bertjax.prune import LayerDrop
from bertjax.recipes import prune
from bertjax.recipes.data import Data
from bertjax.recipes.finetune import Config
from bertjax.recipes.optimiser import Optimiser

DATA = Data(train="SST-2/train.tsv", eval="SST-2/dev.tsv", max_length=64, rows=20_000)

config = Config(
    data=DATA,
    epochs=6,
    optimiser=Optimiser(learning_rate=1e-4),
    transforms=(LayerDrop(0.2),),
    out="runs/layerdrop",
)
half = prune.Config(data=DATA, layers=0.5, criterion="evenly_spaced", finetune_after=False)
searched = prune.Config(data=DATA, layers=0.5, criterion="leave_one_out", iterations=3, finetune_after=False)
