"""Ways to teach a small BERT, held against each other: one teacher, one shape, one budget, three seeds.

    bertjax compare --config=compare --out=runs/compare
    bertjax compare --config=compare --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv --data.max_length=64 \
        --data.rows=20000 --out=runs/compare-sst2

The teacher is MiniLM-L6, fine-tuned; the student has 2 of its 6 layers and a third of their neurons. What the rows
learn from:

    soft_targets   the teacher's probabilities (Hinton et al. 2015)
    distilbert     these, the labels, and the direction of the last hidden states (Sanh et al. 2019)
    pkd            these, the labels, and the normalised first rows of inner layers (Sun et al. 2019)
    tinybert       hidden states and attention scores, then the probabilities (Jiao et al. 2020)
    minilm_v1      attention and relations of values of the last layer, then the probabilities (Wang et al. 2020)
    minilm_v2      relations of queries, keys and values, then the probabilities (Wang et al. 2021)

Their papers distil while pre-training, or from larger teachers, for longer and on other data; here all have three
passes over the task's own text, so their figures say in which order to expect the rows at best. Weights are those of
the papers where they name some, else equal; the learning rate is the same for all and was not tuned for any.
"""

from bertjax.distill.student import Student
from bertjax.distill.terms import (
    AttentionScores,
    HardLabels,
    HiddenStates,
    LastHiddenState,
    Patience,
    Relations,
    SoftTargets,
)
from train.common import Data
from train.compare import Config, Published, Row
from train.distill import Distill
from train.finetune import Finetune
from train.optimiser import Optimiser

RATE = Optimiser(learning_rate=2e-4)
SOFT = SoftTargets(temperature=2.0)


def learn(name: str, *losses, share: float = 1.0) -> Distill:
    """A stage that takes `share` of the row's budget."""
    return Distill(name=name, losses=losses, epochs=share, batch_size=64, optimiser=RATE)


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
            (learn("student", SOFT, HardLabels(), Patience()),),
            paper=Published(91.1, "SST-2 dev, 6 layers of BERT-base, PKD-Skip; results in the authors' code"),
        ),
        Row(
            "tinybert",
            (learn("layers", HiddenStates(), AttentionScores(), share=2), learn("answers", SOFT)),
            paper=Published(92.6, "SST-2 test, TinyBERT-4 with augmentation (Jiao et al. 2020, table 1)"),
        ),
        Row(
            "minilm_v1",
            (learn("relations", V1, share=2), learn("answers", SOFT)),
            paper=Published(91.5, "SST-2 dev, 6 x 384, distilled on raw text, then fine-tuned; the authors' results"),
        ),
        Row("minilm_v2", (learn("relations", Relations(), share=2), learn("answers", SOFT))),
    ),
    seeds=(0, 1, 2),
    epochs=3,
    out="runs/compare",
)
