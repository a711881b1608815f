"""Patient knowledge distillation: BERT-base, fine-tuned, into six layers (Sun et al. 2019): 66,955,008 parameters.

    bertjax finetune --config=pkd:teacher --data.train=train.tsv --data.eval=dev.tsv --out=runs/pkd-teacher
    bertjax distill --config=pkd --data.train=train.tsv --data.eval=dev.tsv --out=runs/pkd

The student begins with the first six layers of the model that was not fine-tuned. It learns the labels (weight 1 -
alpha), the teacher's probabilities (alpha, at temperature T), and on the way the teacher's first rows: its layers 1, 3,
5, 7 and 9, brought to length 1 (beta; this is PKD-skip). The paper searches alpha in 0.2, 0.5, 0.7, T in 5, 10, 20,
beta in 10, 100, 500, 1000 and the rate in 5e-5, 2e-5, 1e-5; here are values that its published runs with six layers
took most. `official` divides as that code does, for which beta was chosen: by classes, width and layers. Length 128,
batches of 32, four epochs, warm-up 10 %. Published runs for MNLI, QNLI and QQP do not bring vectors to length 1
(--losses.2.normalised=false).

    bertjax distill --config=pkd:small --model=runs/finetune/bundle --out=runs/pkd-small

is the same at a size that fits a laptop, on the demo; the teacher is what `bertjax finetune` leaves.

Not run at full size: tests check the number of parameters and that the whole step can be traced.
"""

from dataclasses import replace

from bertjax.distill.terms import HardLabels, PatientStates, SoftTargets
from bertjax.recipes import finetune
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student

ALPHA, BETA, TEMPERATURE = 0.7, 100.0, 10.0

teacher = finetune.Config(
    model="hf:bert-base-uncased",
    data=Data(train="train.tsv", eval="dev.tsv", max_length=128),
    epochs=4,
    batch_size=32,
    optimiser=Optimiser(learning_rate=5e-5),
    out="runs/pkd-teacher",
)

config = Config(
    model="runs/pkd-teacher/bundle",
    data=teacher.data,
    student=Student(num_hidden_layers=6, init_from="hf:bert-base-uncased", pairing="first"),
    losses=(
        HardLabels(weight=1 - ALPHA),
        SoftTargets(weight=ALPHA, temperature=TEMPERATURE, preset="pkd"),
        PatientStates(weight=BETA, pairing="uniform", preset="official"),
    ),
    epochs=4,
    batch_size=32,
    optimiser=Optimiser(learning_rate=5e-5, warmup=0.1),
    out="runs/pkd",
)

small = replace(
    config,
    model="runs/finetune/bundle",
    data=Data(train="demo", eval="demo", max_length=32),
    student=replace(config.student, num_hidden_layers=3, init_from="demo"),
    epochs=2,
    out="runs/pkd-small",
)
