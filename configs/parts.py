"""What a classifier loses with its parts: whole layers, halves of the feed-forward layers, heads.

    bertjax compare --config=parts --model=runs/tuned/bundle --data.train=train.tsv --data.eval=dev.tsv \
        --data.max_length=64

`model` is a fine-tuned one. Every row takes the parts that are worth least out of it (train/prune.py) and learns from
it by its answers alone; `no_teacher` is every other layer of the model, which learn from the labels.

MiniLM on SST-2 (the model of configs/sst2.py, seed 0; --data.rows=20000 --epochs=1, 40 minutes on one core beside other
work; one seed; 872 sentences):

PARTS

Differences between the rows above 89 are noise; layers are the dearest part to lose, and bring the most time.
"""

from bertjax.distill.student import Student
from bertjax.distill.terms import SoftTargets
from train.compare import Config, Row
from train.finetune import Finetune
from train.optimiser import Optimiser
from train.prune import Prune

RATE = Optimiser(learning_rate=1e-4)


def without(name: str, layers: float = 0.0, heads: float = 0.0, neurons: float = 0.0) -> Row:
    """A row that is the model without these parts."""
    learned = (SoftTargets(temperature=2.0),)
    stage = Prune(
        layers=layers, heads=heads, neurons=neurons, losses=learned, packed=True, batch_size=8, optimiser=RATE
    )
    return Row(name, (stage,))


config = Config(
    model="runs/tuned/bundle",
    student=Student(num_hidden_layers=3),
    alone=Finetune(name="alone", packed=True, batch_size=8, optimiser=RATE),
    rows=(
        without("four_layers", layers=1 / 3),
        without("three_layers", layers=1 / 2),
        without("two_layers", layers=2 / 3),
        without("half_the_neurons", neurons=1 / 2),
        without("quarter_of_the_neurons", neurons=3 / 4),
        without("half_the_heads", heads=1 / 2),
        without("half_of_both", heads=1 / 2, neurons=1 / 2),
    ),
    epochs=2,
    seeds=(0,),
    out="runs/parts",
)
