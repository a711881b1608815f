"""Methods of distillation compared: one teacher, one student shape, one budget, three seeds.

    bertjax compare --config=compare --out=runs/compare
    bertjax compare --config=compare --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv --data.max_length=64 \
        --data.rows=20000 --out=runs/compare-sst2

The teacher is MiniLM-L6, fine-tuned; the student has 2 of its 6 layers and a third of their neurons. The rows
are trained on:

    soft_targets   the teacher's probabilities (Hinton et al. 2015)
    distilbert     these, the labels, and the direction of the last hidden states (Sanh et al. 2019)
    pkd            these, the labels, and the normalised first rows of inner layers (Sun et al. 2019)
    tinybert       hidden states and attention scores, then the probabilities (Jiao et al. 2020)
    tinybert_aug   the same, from these texts and four copies of each in which some words became near ones
    minilm_v1      attention and relations of values of the last layer, then the probabilities (Wang et al. 2020)
    minilm_v2      relations of queries, keys and values, then the probabilities (Wang et al. 2021)
    cut_out        the probabilities and the labels, in another shape: the teacher's six layers with a quarter of their
                   heads and a sixth of their neurons, those of the highest importance (Michel et al. 2019), so that it
                   begins with what the teacher has learned

SST-2, 20,000 of its training sentences, the 872 dev sentences to score (the second command, with --dtype=bfloat16 and
--trained=runs/tuned/bundle, which configs/sst2.py has the command for; 91 minutes on one of two CPU cores, the other
busy, and times measured with one thread).
Differences are to the row without a teacher, p by a paired test that Holm corrected for 10 rows, seconds of training
and of asking the teacher for a seed:

    docs/results/compare_sst2.json
    row             accuracy [95 %]  by seed                difference       p  seconds  FLOPs    ms
    teacher       90.1 [88.1, 92.1]  -                               -       -        -   449M  6.50
    no_teacher    82.8 [80.4, 85.2]  83.4 82.5 82.7                  -       -       87  64.6M  1.22
    more_epochs   83.3 [81.1, 85.6]  83.0 83.0 83.8  +0.5 [-0.7, +1.6]    0.48      199  64.6M  1.22
    bag of words  80.2 [77.6, 82.8]  -               -2.7 [-5.3, +0.1]    0.11        2      -  0.34
    soft_targets  84.7 [82.5, 86.9]  85.6 84.3 84.3  +1.9 [+0.5, +3.3]   0.030      109  64.6M  1.22
    distilbert    84.5 [82.2, 86.7]  84.6 84.5 84.3  +1.6 [+0.3, +2.9]   0.043      144  64.6M  1.22
    pkd           84.7 [82.5, 87.0]  85.2 84.6 84.4  +1.9 [+0.6, +3.2]   0.020      113  64.6M  1.22
    tinybert      85.9 [83.7, 88.1]  86.1 86.1 85.4  +3.1 [+1.6, +4.6]   0.002      178  64.6M  1.22
    tinybert_aug  86.5 [84.3, 88.6]  86.7 86.9 85.8  +3.6 [+2.1, +5.3]   0.002      258  64.6M  1.22
    minilm_v1     86.1 [83.9, 88.2]  86.1 86.4 85.8  +3.2 [+1.7, +4.8]   0.002      149  64.6M  1.22
    minilm_v2     85.3 [83.1, 87.6]  85.4 85.2 85.3  +2.5 [+1.0, +4.0]   0.007      203  64.6M  1.22
    cut_out       87.5 [85.4, 89.6]  87.2 87.2 88.2  +4.7 [+2.7, +6.6]  <0.001      149  80.1M  1.64

Every method of distillation beats the same student on labels. tinybert and minilm, which look inside it, are about
a point ahead of those that are given little but its outputs. A student cut out of the teacher is the best, though not
statistically distinguishable from tinybert, tinybert_aug and minilm_v1, and slower by a third: six thin layers are more
work than two thick ones. It stays 2.6 [0.9, 4.3] points below the teacher where 1.5 were hoped for, and keeps 74 % of
what the teacher has over a bag of words, where 80 were.

On the demo (10,177 sentences of films to learn from, 1,717 of other films to score; the first command, with
--dtype=bfloat16; 69 minutes on one of two CPU cores, the other busy):

    docs/results/compare_demo.json
    row             accuracy [95 %]  by seed                difference       p  seconds  FLOPs    ms
    teacher       81.0 [79.1, 82.8]  -                               -       -        -   506M  5.79
    no_teacher    76.7 [74.9, 78.5]  76.9 76.4 76.9                  -       -       55  72.6M  1.11
    more_epochs   75.6 [73.6, 77.5]  75.4 75.7 75.8  -1.1 [-2.3, -0.1]    0.12      128  72.6M  1.11
    bag of words  75.9 [74.0, 77.8]  -               -0.9 [-2.8, +1.1]    0.42        1      -  0.34
    soft_targets  78.1 [76.3, 79.9]  78.4 78.0 77.9  +1.4 [+0.1, +2.7]    0.12       78  72.6M  1.11
    distilbert    78.5 [76.8, 80.3]  78.2 78.3 79.1  +1.8 [+0.8, +2.9]   0.011      133  72.6M  1.11
    pkd           78.4 [76.6, 80.2]  77.8 79.1 78.3  +1.7 [+0.6, +2.7]   0.018       94  72.6M  1.11
    tinybert      78.5 [76.7, 80.3]  78.7 78.9 78.1  +1.8 [+0.3, +3.4]    0.10      158  72.6M  1.11
    tinybert_aug  78.8 [77.0, 80.5]  78.8 79.3 78.4  +2.1 [+0.5, +3.6]   0.053      139  72.6M  1.11
    minilm_v1     78.6 [76.9, 80.4]  78.6 79.2 78.2  +1.9 [+0.4, +3.5]    0.10      119  72.6M  1.11
    minilm_v2     78.5 [76.7, 80.2]  78.2 79.1 78.0  +1.7 [+0.3, +3.3]    0.11      145  72.6M  1.11
    cut_out       80.5 [78.8, 82.2]  80.1 80.9 80.6  +3.8 [+2.1, +5.4]  <0.001      104  92.9M  1.56

Here a teacher is worth one and a half to two points, and which of the seven ways it is makes no statistically
distinguishable difference. The student cut out of the teacher is ahead of all of them and 0.4 [-1.0, 1.8] points below
the teacher, at 0.18 of its arithmetic: it keeps 90 % of what the teacher has over a bag of words.

On pairs of sentences of WikiText-2, does the second follow the first or is it from somewhere else (9,134 pairs of its
test file to learn from, 2,000 of its validation file to score):

    python -m tests.benchmarks.sentence_pairs test.txt.gz pairs.tsv
    python -m tests.benchmarks.sentence_pairs valid.txt.gz pairs-eval.tsv --count=2000
    bertjax compare --config=compare --data.train=pairs.tsv --data.eval=pairs-eval.tsv --data.max_length=64 \
        --dtype=bfloat16 --out=runs/compare-pairs

80 minutes beside other work, which the times shared the processor with as well:

    docs/results/compare_pairs.json
    row             accuracy [95 %]  by seed                   difference       p  seconds  FLOPs    ms
    teacher       82.2 [80.6, 83.9]  -                                  -       -        -  1.10G  13.3
    no_teacher    64.3 [62.5, 66.3]  63.5 64.8 64.8                     -       -       88   157M  1.79
    more_epochs   65.8 [63.8, 67.6]  65.6 66.0 65.6     +1.4 [+0.2, +2.7]   0.065      219   157M  1.79
    bag of words  48.8 [46.6, 50.9]  -               -15.5 [-18.4, -12.8]  <0.001        2      -  0.41
    soft_targets  68.9 [67.0, 70.9]  68.6 69.6 68.5     +4.6 [+3.1, +6.0]  <0.001      122   157M  1.79
    distilbert    68.9 [67.0, 70.8]  69.2 68.6 69.0     +4.6 [+3.1, +6.0]  <0.001      189   157M  1.79
    pkd           68.3 [66.4, 70.2]  68.0 69.0 67.8     +3.9 [+2.6, +5.3]  <0.001      125   157M  1.79
    tinybert      69.0 [67.1, 70.9]  69.1 69.3 68.5     +4.6 [+2.8, +6.5]  <0.001      208   157M  1.79
    tinybert_aug  67.2 [65.3, 69.0]  66.8 67.2 67.5     +2.8 [+1.0, +4.7]   0.010      269   157M  1.79
    minilm_v1     65.0 [63.2, 66.9]  64.5 64.5 66.1     +0.7 [-1.3, +2.6]    0.51      172   157M  1.79
    minilm_v2     61.2 [59.3, 63.1]  60.4 61.3 62.0     -3.1 [-5.0, -1.3]   0.004      258   157M  1.79
    cut_out       79.5 [77.8, 81.2]  79.6 79.8 79.1  +15.2 [+13.1, +17.1]  <0.001      173   199M  2.24

Two layers hardly learn to hold one sentence against another, with any method. Relations, which get two thirds of a
row's passes, hand little of that down: minilm_v2 is worse than no teacher. The student cut out of the teacher has six
layers as it does, and stays 2.7 [1.3, 4.2] points below it.

Their papers distil while pre-training, or from larger teachers, for longer and on other data; here all have three
passes over the task's own text, so their figures say in which order to expect the rows at best. Weights are those of
the papers where they name some, else equal; the learning rate is the same for all and was not tuned for any.
"""

from bertjax.distill.terms import (
    AttentionScores,
    HardLabels,
    HiddenStates,
    LastHiddenState,
    PatientStates,
    Relations,
    SoftTargets,
)
from bertjax.recipes.augment import Augment
from bertjax.recipes.compare import Config, Published, Row
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.prune import Prune
from bertjax.student import Student

RATE = Optimiser(learning_rate=2e-4)
SOFT = SoftTargets(temperature=2.0)


def learn(name: str, *losses, share: float = 1.0, store: bool = True) -> Distill:
    """A stage that takes `share` of the row's budget."""
    return Distill(name=name, losses=losses, epochs=share, batch_size=64, optimiser=RATE, store=store)


V1 = Relations(of=(("queries", "keys"), ("values", "values")), heads=None)

config = Config(
    model="demo",
    data=Data(train="demo", eval="demo", max_length=32),
    teacher=(Finetune(name="teacher", epochs=2, batch_size=64, optimiser=Optimiser(learning_rate=1e-4)),),
    student=Student(num_hidden_layers=2, intermediate_size=512),
    alone=Finetune(name="alone", batch_size=64, optimiser=RATE),
    rows=(
        Row(
            "soft_targets",
            (learn("student", SOFT),),
            paper=Published(90.8, "SST-2 dev, 6 layers of BERT-base; results in PKD's code (Sun et al. 2019)"),
        ),
        Row(
            "distilbert",
            (learn("student", SOFT, LastHiddenState(), HardLabels()),),
            paper=Published(91.3, "SST-2 dev, distilled on raw text, then fine-tuned; results in DistilBERT's code"),
        ),
        Row(
            "pkd",
            (learn("student", SOFT, HardLabels(), PatientStates()),),
            paper=Published(91.1, "SST-2 dev, 6 layers of BERT-base, PKD-Skip; results in the authors' code"),
        ),
        Row(
            "tinybert",
            (learn("layers", HiddenStates(), AttentionScores(), share=2), learn("answers", SOFT)),
            paper=Published(92.6, "SST-2 test, TinyBERT-4 with augmentation (Jiao et al. 2020, table 1)"),
        ),
        Row(
            "tinybert_aug",
            (
                Augment(substitutes="neighbours", copies=4),
                learn("layers", HiddenStates(), AttentionScores(), share=2, store=False),
                learn("answers", SOFT, store=False),  # most of the copies are never read
            ),
        ),
        Row(
            "minilm_v1",
            (learn("relations", V1, share=2), learn("answers", SOFT)),
            paper=Published(91.5, "SST-2 dev, 6 x 384, distilled on raw text, then fine-tuned; the authors' results"),
        ),
        Row("minilm_v2", (learn("relations", Relations(), share=2), learn("answers", SOFT))),
        Row(
            "cut_out",
            (
                Prune(
                    name="cut",
                    heads=0.75,
                    neurons=0.84,
                    losses=(SOFT, HardLabels()),
                    epochs=1,
                    batch_size=64,
                    optimiser=RATE,
                ),
            ),
        ),
    ),
    seeds=(0, 1, 2),
    epochs=3,
    out="runs/compare",
)
