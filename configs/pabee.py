"""PABEE on SST-2 (Zhou et al. 2020): a classifier after each layer behind one pooler, all trained together.

    python -m tests.benchmarks.hold_out SST-2/train.tsv held-out
    bertjax exits --config=pabee --data.train=held-out/train.tsv --data.eval=SST-2/dev.tsv --out=runs/pabee
    bertjax calibrate --model=runs/pabee/bundle --rule=patience --held_out=held-out/held_out.tsv \
        --data.eval=SST-2/dev.tsv --data.max_length=64 --out=runs/pabee-early

Seed 0, accuracy on the 872 dev sentences behind each layer: 50.9, 50.9, 50.9, 89.2, 89.1, 89.2. In 1,268 steps the
classifiers of the lower three layers learn nothing (their losses stay at ln 2): the first token, which PABEE reads,
knows next to nothing of the text there in a model that was pre-trained with mean pooling. So nothing can be left before
the fourth layer; configs/deebert.py lets exits read the mean. Its calibration has not been run.
"""

from bertjax.recipes.data import Data
from bertjax.recipes.exits import Config
from bertjax.recipes.optimiser import Optimiser

config = Config(
    model="demo",
    data=Data(train="held-out/train.tsv", eval="SST-2/dev.tsv", max_length=64),
    epochs=2,
    batch_size=64,
    head="shared_pooler",
    method="joint",
    optimiser=Optimiser(learning_rate=1e-4),
    out="runs/pabee",
)
