"""DeeBERT on SST-2 (Xin et al. 2020): a fine-tuned MiniLM is frozen, and exits after its layers are trained on the labels.

    python -m tests.benchmarks.hold_out SST-2/train.tsv held-out
    bertjax finetune --data.train=held-out/train.tsv --data.eval=held-out/held_out.tsv --data.max_length=64 \
        --epochs=1 --batch_size=64 --optimiser.learning_rate=1e-4 --out=runs/tuned
    bertjax exits --config=deebert --data.train=held-out/train.tsv --data.eval=SST-2/dev.tsv --out=runs/deebert
    bertjax calibrate --model=runs/deebert/bundle --held_out=held-out/held_out.tsv --data.eval=SST-2/dev.tsv \
        --data.max_length=64 --out=runs/deebert-early

RESULTS
"""

from train.common import Data
from train.exits import Config
from train.optimiser import Optimiser

config = Config(
    model="runs/tuned/bundle",
    data=Data(train="held-out/train.tsv", eval="SST-2/dev.tsv", max_length=64),
    epochs=2,
    batch_size=64,
    reads="mean",
    optimiser=Optimiser(learning_rate=1e-3),
    out="runs/deebert",
)
