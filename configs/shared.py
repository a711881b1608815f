"""One set of layers for all depths: MiniLM's six layers in a few groups, recovered by distillation from MiniLM itself.

    bertjax compress --config=quickstart --out=runs/quickstart     # for the teacher: MiniLM fine-tuned on film reviews
    for groups in 3 2 1; do bertjax distill --config=shared --student.groups=$groups --out=runs/shared-$groups; done
    bertjax evaluate --model=runs/quickstart/stages/1-teacher/bundle --data.max_length=32 --out=runs/shared \
        --against runs/shared-3/bundle runs/shared-2/bundle runs/shared-1/bundle

Sharing saves memory, storage and optimiser state, and no time: every depth step computes what it did. Each depth keeps
its own LayerNorms (6 x 1,536 numbers), for which a least-squares fit is made.
"""

from bertjax.distill.student import Student
from bertjax.distill.terms import HiddenStates, SoftTargets
from train.common import Data
from train.distill import Config
from train.optimiser import Optimiser

config = Config(
    model="runs/quickstart/stages/1-teacher/bundle",
    data=Data(train="demo", eval="demo", max_length=32),
    epochs=2,
    student=Student(num_hidden_layers=6, groups=2, norms="separate", merge="fit"),
    losses=(SoftTargets(weight=1.0, temperature=2.0), HiddenStates(weight=1.0)),
    optimiser=Optimiser(learning_rate=1e-4),
    out="runs/shared",
)
