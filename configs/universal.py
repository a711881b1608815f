"""A Universal Transformer from a BERT: MiniLM's six layers become one block, and each position halts by itself.

    bertjax compress --config=quickstart --out=runs/quickstart     # for the teacher: MiniLM fine-tuned on film reviews
    bertjax distill --config=universal --out=runs/universal
    bertjax distill --config=universal:fixed --out=runs/six-steps                # the same block, six steps for all

Halting by position saves time only when a whole batch has halted, so the gain is at batch 1. On SST-2,

    bertjax distill --config=universal --model=runs/sst2-teacher/bundle --data.train=SST-2/train.tsv \
        --data.eval=SST-2/dev.tsv --data.max_length=64 --epochs=2 --batch_size=64 --out=runs/universal-sst2

gave 80.8 % of the 872 dev sentences from a teacher with 90.3 (seed 0 of the three epochs in configs/sst2.py), and took
5.98 of the 6 steps on average (`bertjax predict` says for each text how many): at a ponder weight of 0.01 next to
nothing halts early, and nothing is saved. Larger weights, a teacher with 90.1 and 20,000 of the texts
(--data.rows=20000 --dtype=bfloat16, 7 minutes on one core each), against the same block with six steps for all
(universal:fixed):

    docs/results/universal.json
    ponder weight  steps    accuracy [95 %]  ms, one text  texts/s, batches of 32
    (six for all)      6  82.0 [79.4, 84.5]          4.94                     301
    --ponder=0.05   5.91  81.4 [78.8, 83.9]          5.05                     289
    --ponder=0.3    4.00  82.7 [80.2, 85.2]          3.47                     434

measured by `bertjax evaluate --model=SIX/bundle --against HALTING/bundle ... --data.train=SST-2/train.tsv
--data.eval=SST-2/dev.tsv --data.max_length=64` on two quiet CPU cores, in float32. A third of the steps is 30 % of the
time on one text, with no statistically distinguishable change of accuracy. But 867 of the 872 texts take four steps: at
this price the block has learned to do with fewer, and not which text needs more. A bag of words has 82.7 as well: one
block for six layers is too small for this task, or 20,000 texts are too few to teach it.
"""

from bertjax.distill.terms import HiddenStates, SoftTargets
from bertjax.model.depth import Halting, Recurrence
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student


def recurrent(halting: Halting | None, out: str) -> Config:
    """Six steps of one block, with or without halting."""
    return Config(
        model="runs/quickstart/stages/1-teacher/bundle",
        data=Data(train="demo", eval="demo", max_length=32),
        epochs=2,
        student=Student(
            num_hidden_layers=6,
            groups=1,
            recurrence=Recurrence(6, "none", "learned", halting=halting),
        ),
        losses=(SoftTargets(weight=1.0, temperature=2.0), HiddenStates(weight=1.0)),
        optimiser=Optimiser(learning_rate=1e-4),
        out=out,
    )


config = recurrent(Halting("accumulated", remainder_at_end=True, bias=-1.0), "runs/universal")
fixed = recurrent(None, "runs/six-steps")
