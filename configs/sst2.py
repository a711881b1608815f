"""SST-2: MiniLM-L6 fine-tuned on 67,349 phrases of film reviews; a student has 2 of its layers, half their neurons.

    bertjax compress --config=sst2 --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv --seed=0 --out=runs/sst2-0

The files are GLUE's (https://gluebenchmark.com); the student computes 0.22 of the teacher's encoder.

How the teacher's rate was chosen, on 3,000 sentences held out of the training file and one epoch of the 40,549 rows
that share no phrase with them (the dev set was not read):

    python -m tests.benchmarks.hold_out SST-2/train.tsv held-out
    bertjax finetune --data.train=held-out/train.tsv --data.eval=held-out/held_out.tsv --data.max_length=64 \
        --epochs=1 --optimiser.learning_rate=1e-4 --out=runs/rate

1e-4 got 87.2 (whole sentences are harder than the dev set's mixture) and had a loss of 0.37 after 180 steps; 5e-5 was
still at 0.61 after 230 and 2e-4 at 0.64 after 270, so both were stopped. The teacher's two epochs took 29 minutes on
two cores that were busy with other work besides (an undisturbed step of 64 takes 0.53 s).

Seed 0, accuracy on the 872 dev sentences with 95 % intervals: teacher 89.9 [88.0, 91.9]; student 86.4 [83.9, 88.6];
the same small model without a teacher 86.0 [83.7, 88.4], so this recipe shows no gain of the student (+0.3, p = 0.77);
a bag of words 82.7. The student computes 6.0x less and is 6.1x as fast on one sentence. Other seeds have not been run.
With three epochs instead of two (bertjax finetune, --epochs=3 and the rest as here, 28 minutes a seed) seeds 0, 1 and 2
got 90.25, 88.65 and 88.88, 89.3 on average: seeds differ by more than an epoch gains.
The mean of the last weights is a little better than the last ones: on the held-out sentences, after three epochs, 88.0
against 87.7 (one run has both). Packed, three epochs and that mean, seeds 0, 1, 2, 3 and 6 got 90.14, 89.79, 88.99,
89.56 and 89.11 on dev, 89.5 on average:

    bertjax finetune --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv --data.max_length=64 --packed \
        --batch_size=14 --optimiser.learning_rate=1e-4 --epochs=3 --optimiser.swa_fraction=0.33 --seed=0
        --out=runs/tuned

which takes 25 to 28 minutes on one core beside a run on the other, and 14 with --dtype=bfloat16 on a processor with
AMX; 14 rows of 64 hold about 60 texts. With --model_soup=3 the model is the mean of the weights of three runs, as small
and as fast as one: in bfloat16 90.25 (--seed=0), 90.25 (--seed=1) and 89.56 (--seed=2), 90.02 on average, and in
float32 90.14 (--seed=0). Two more epochs on longer phrases alone, which look more like the dev sentences, gained
nothing: 87.9 against 88.0 on the held-out ones.

The same training in PyTorch is no better and no worse: with seed 3, 89.4 there and 89.6 here, +0.1 [-1.1, 1.4], p = 1.

    python -m tests.benchmarks.torch_finetune --seed=3 --out=runs/torch-3               # and all flags as above
    bertjax evaluate --model=runs/tuned-3/bundle --against runs/torch-3/bundle --data.eval=SST-2/dev.tsv

A quarter of the encoder's arithmetic, in six layers: a third of the heads and a fifth of the neurons stay (seed 0 of
those runs is the teacher), then three packed epochs as above.

    bertjax prune --config=sst2:quarter
    bertjax finetune --model=runs/quarter/cut --out=runs/quarter-labels                 # and all flags as above
    bertjax prune --config=sst2:quarter --model=demo --criterion=magnitude --finetune_after=False --out=runs/blind
    bertjax finetune --model=runs/blind/bundle --out=runs/quarter-alone                 # and all flags as above

The first learns from the teacher's answers and the labels and gets 88.5, the second, from the labels alone, 88.8, the
last, which never saw the teacher nor its weights, 87.3. No difference among the three is certain: the first is 1.3
[-0.6, 3.1] above the last. What helps is to be cut out of the teacher; its answers add nothing where there are as many
labels as here.
"""

from bertjax.distill.terms import HardLabels, HiddenStates, SoftTargets
from bertjax.recipes import prune
from bertjax.recipes.compress import Config
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student

DATA = Data(train="SST-2/train.tsv", eval="SST-2/dev.tsv", max_length=64)

config = Config(
    model="demo",
    data=DATA,
    stages=(
        Finetune(name="teacher", epochs=2, batch_size=64, optimiser=Optimiser(learning_rate=1e-4), save_every=500),
        Distill(
            name="student",
            epochs=3,
            batch_size=64,
            student=Student(num_hidden_layers=2, intermediate_size=768),
            losses=(SoftTargets(weight=1.0, temperature=2.0), HiddenStates(weight=1.0)),
            optimiser=Optimiser(learning_rate=2e-4),
            save_every=500,
        ),
    ),
    out="runs/sst2",
)

quarter = prune.Config(
    model="runs/tuned/bundle",
    data=DATA,
    heads=0.67,
    neurons=0.8,
    losses=(SoftTargets(temperature=2.0), HardLabels()),
    epochs=3,
    packed=True,
    batch_size=14,
    optimiser=Optimiser(learning_rate=1e-4, swa_fraction=0.33),
    save_every=400,
    out="runs/quarter",
)
