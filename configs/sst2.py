"""SST-2: MiniLM-L6 fine-tuned on 67,349 phrases of film reviews; a student has 2 of its layers, half their neurons.

    bertjax compress --config=sst2 --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv --seed=0 --out=runs/sst2-0

The files are GLUE's (https://gluebenchmark.com); the student computes 0.22 of the teacher's encoder.

How the teacher's rate was chosen, on 3,000 sentences held out of the training file and one epoch of the 40,549 rows
that share no phrase with them (the dev set was not read):

    python -m tests.benchmarks.hold_out SST-2/train.tsv held-out
    bertjax finetune --data.train=held-out/train.tsv --data.eval=held-out/held_out.tsv --data.max_length=64 \
        --epochs=1 --optimiser.learning_rate=1e-4 --out=runs/rate

1e-4 got 87.2 (whole sentences are harder than the dev set's mixture) and had a loss of 0.37 after 180 steps; 5e-5 was
still at 0.61 after 230 and 2e-4 at 0.64 after 270, so both were stopped. The command at the top has not been run to its
end yet; its scores will stand here.
"""

from bertjax.distill.student import Student
from bertjax.distill.terms import HiddenStates, SoftTargets
from train.common import Data
from train.compress import Config
from train.distill import Distill
from train.finetune import Finetune
from train.optimiser import Optimiser

config = Config(
    model="demo",
    data=Data(train="SST-2/train.tsv", eval="SST-2/dev.tsv", max_length=64),
    stages=(
        Finetune(name="teacher", epochs=3, optimiser=Optimiser(learning_rate=1e-4), save_every=500),
        Distill(
            name="student",
            epochs=3,
            student=Student(num_hidden_layers=2, intermediate_size=768),
            losses=(SoftTargets(weight=1.0, temperature=2.0), HiddenStates(weight=1.0)),
            optimiser=Optimiser(learning_rate=2e-4),
            save_every=500,
        ),
    ),
    out="runs/sst2",
)
