"""One set of layers for all depths: MiniLM's six layers in a few groups, recovered by distillation from MiniLM itself.

    bertjax compress --config=quickstart --out=runs/quickstart     # for the teacher: MiniLM fine-tuned on film reviews
    for groups in 3 2 1; do bertjax distill --config=shared --student.groups=$groups --out=runs/shared-$groups; done
    bertjax evaluate --model=runs/quickstart/stages/1-teacher/bundle --data.max_length=32 --out=runs/shared \
        --against runs/shared-3/bundle runs/shared-2/bundle runs/shared-1/bundle

Sharing saves memory, storage and optimiser state, and no arithmetic: every depth step computes what it did. Each depth
keeps its own LayerNorms (6 x 1,536 numbers), for which a least-squares fit is made.

On two CPU cores (1,717 sentences of unseen films, one seed, median of three repeats; the training step is the one that
made the model: fine-tuning for MiniLM, distillation with stored outputs for the others, 32 texts of up to 32 tokens):

    docs/results/shared.json
    groups        accuracy [95 %]  parameters    bytes  FLOPs   memory  training    ms  texts/s, batches of 32
    6 (MiniLM)  79.6 [77.8, 81.4]  22,713,986  90.9 MB   506M  91.2 MB    516 MB  12.7                     231
    3           78.8 [76.9, 80.7]  17,395,202  69.6 MB   506M  70.0 MB    495 MB  9.16                     233
    2           77.1 [75.1, 79.0]  15,622,274  62.5 MB   506M  62.9 MB    474 MB  10.0                     255
    1           76.0 [74.1, 77.9]  13,849,346  55.4 MB   506M  55.8 MB    452 MB  8.89                     238

Three groups show no difference to six (-0.8, interval -2.2 to +0.6); two do (-2.6, -4.2 to -0.9), and one (-3.6, -5.4
to -1.8), which is no better than a bag of words (75.9). In batches sharing saves no time. One sentence is 1.3 to 1.4x
as fast, because fewer weights have to be fetched.
"""

from bertjax.distill.terms import HiddenStates, SoftTargets
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student

config = Config(
    model="runs/quickstart/stages/1-teacher/bundle",
    data=Data(train="demo", eval="demo", max_length=32),
    epochs=2,
    student=Student(num_hidden_layers=6, groups=2, norms="separate", merge="fit"),
    losses=(SoftTargets(weight=1.0, temperature=2.0), HiddenStates(weight=1.0)),
    optimiser=Optimiser(learning_rate=1e-4),
    out="runs/shared",
)
