"""Distil a fine-tuned model into two of its layers with half of the neurons.

    bertjax finetune --config=finetune --out=runs/finetune
    bertjax distill --config=distill --model=runs/finetune/bundle --out=runs/distill

The student begins with every third layer of the teacher and learns its probabilities at temperature 2 and its hidden
states. Add `HardLabels()` to the losses to learn from the labels too; without it, text alone is enough.
"""

from bertjax.distill.terms import HiddenStates, SoftTargets
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student

config = Config(
    model="runs/finetune/bundle",
    data=Data(train="demo", eval="demo", max_length=64),
    student=Student(num_hidden_layers=2, intermediate_size=768),
    losses=(SoftTargets(weight=1.0, temperature=2.0), HiddenStates(weight=1.0)),
    epochs=4,
    optimiser=Optimiser(learning_rate=2e-4),
    out="runs/distill",
)
