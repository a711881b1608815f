"""A Universal Transformer from a BERT: MiniLM's six layers become one block, and each position halts by itself.

    bertjax compress --config=quickstart --out=runs/quickstart     # for the teacher: MiniLM fine-tuned on film reviews
    bertjax distill --config=universal --out=runs/universal
    bertjax distill --config=shared --student.groups=1 --student.norms=shared --out=runs/six-rounds  # no halting

Halting by position saves time only when a whole batch has halted, so the gain is at batch 1. Not run to its end so far.
"""

from bertjax.distill.student import Student
from bertjax.distill.terms import HiddenStates, SoftTargets
from bertjax.model.config import Halting, Recurrence
from train.common import Data
from train.distill import Config
from train.optimiser import Optimiser

config = Config(
    model="runs/quickstart/stages/1-teacher/bundle",
    data=Data(train="demo", eval="demo", max_length=32),
    epochs=2,
    student=Student(
        num_hidden_layers=6,
        groups=1,
        recurrence=Recurrence(6, "none", "learned", halting=Halting("accumulated", remainder_at_end=True, bias=-1.0)),
    ),
    losses=(SoftTargets(weight=1.0, temperature=2.0), HiddenStates(weight=1.0)),
    optimiser=Optimiser(learning_rate=1e-4),
    out="runs/universal",
)
