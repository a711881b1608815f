"""What structured pruning costs a classifier: whole layers, feed-forward neurons, heads.

    bertjax compare --config=parts --model=runs/tuned/bundle --data.train=train.tsv --data.eval=dev.tsv \
        --data.max_length=64

`model` is a fine-tuned one. Every row prunes the structures of least importance (train/prune.py) and is trained on
its outputs alone; `no_teacher` is every other layer of the model, trained on the labels.

MiniLM on SST-2 (the model of configs/sst2.py, seed 0; --data.rows=20000 --epochs=1, 40 minutes on one core beside other
work; one seed; 872 sentences):

    docs/results/parts.json
    row                       accuracy [95 %]       to the whole  FLOPs    MB    ms
    teacher                 90.1 [88.1, 92.1]                  -   449M  90.9  4.62
    four_layers             89.6 [87.6, 91.5]  -0.6 [-2.1, +0.9]   277M  76.7  2.78
    three_layers            87.7 [85.6, 89.9]  -2.4 [-4.1, -0.6]   190M  69.6  2.04
    two_layers              84.3 [81.9, 86.8]  -5.8 [-8.0, -3.4]   104M  62.5  1.27
    half_the_neurons        89.1 [86.9, 91.2]  -1.0 [-2.5, +0.5]   305M  76.7  3.34
    quarter_of_the_neurons  89.6 [87.5, 91.5]  -0.6 [-2.3, +1.0]   229M  69.6  2.70
    half_the_heads          90.6 [88.5, 92.5]  +0.5 [-0.8, +1.8]   370M  83.8  3.87
    half_of_both            89.6 [87.5, 91.5]  -0.6 [-1.9, +0.7]   225M  69.6  2.80
    no_teacher              86.7 [84.4, 89.0]  -3.4 [-5.5, -1.3]   190M  69.6  2.04
    more_epochs             87.6 [85.4, 89.8]  -2.5 [-4.4, -0.5]   190M  69.6  2.04
    bag of words            80.2 [77.6, 82.8]                  -      -   0.9  0.34

The rows above 89 are not statistically distinguishable. Layers save the most time for what they cost, up to the third.
"""

from bertjax.distill.terms import SoftTargets
from bertjax.recipes.compare import Config, Row
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.prune import Prune
from bertjax.student import Student

RATE = Optimiser(learning_rate=1e-4)


def without(name: str, layers: float = 0.0, heads: float = 0.0, neurons: float = 0.0) -> Row:
    """A row that is the model without these fractions of its structures."""
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
