"""Q-BERT: two to four bits for the encoder, a range for every six outputs, eight bits elsewhere (Shen et al. 2020).

    bertjax quantize --config=qbert --model=runs/tuned/bundle --data.train=train.tsv --data.eval=dev.tsv
    bertjax quantize --config=qbert:mixed --model=...      # three bits for six of twelve layers, two for the rest
    bertjax quantize --config=qbert:small --model=runs/quickstart/stages/2-student/bundle

Six outputs are the 128 groups of a matrix with 768; ours stay within an attention head, which makes a few more of them.
As published for BERT-base on SST-2: 93.0 in floating point, 92.7 with 4 bits, 92.5 with 3, 92.1 with 2 and 3 mixed; the
encoder's weights become 13x smaller. From a fine-tuned model, 2e-5, batches of 32.

MiniLM on SST-2 (90.3 on 872 sentences, one seed): mean_bits=2.8 from asymmetric formats of 2, 3 and 4 bits for three
outputs each, learn="scales", SoftTargets(temperature=1.0) and HiddenStates(), 1,200 steps of 32 texts, 5e-5: 89.3, the
encoder 11.8x smaller, the whole file 5.5x. The layers got 4, 3, 3, 2, 2 and 2 bits, from the first one on, by the loss
with each rounded alone.

Which layers get three bits was chosen by hand in the paper, from the curvature of the loss;
`bertjax.quantize.sensitivity` measures that, and `bertjax.quantize.assignment` chooses within a size. `mixed` here
gives them to the lower half, where the curvature of our own SST-2 model is larger. Ranges of weights follow the
weights; the published code averages them, also while it evaluates, which makes the model depend on how often it was
looked at.
"""

import dataclasses

from bertjax.distill.terms import HardLabels
from bertjax.quantized.formats import Format
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.quantize import Config

TABLE = (r"^embeddings/.*embedding$", Format(8, "asymmetric", block_rows=1, block_cols=None))


def groups(bits: int) -> Format:
    """A range for every six outputs."""
    return Format(bits, "asymmetric", block_cols=6)


config = Config(
    name="qbert",
    weights=(TABLE, (r"^encoder/.*kernel$", groups(4))),
    weight_range="min_max",
    activation_range="moving_average",
    qat="ste",
    losses=(HardLabels(),),
    epochs=3,
    batch_size=32,
    optimiser=Optimiser(learning_rate=2e-5),
    out="runs/qbert",
)
mixed = dataclasses.replace(
    config,
    weights=(TABLE, (r"^encoder/layer_[0-5]/.*kernel$", groups(3)), (r"^encoder/.*kernel$", groups(2))),
    out="runs/qbert-mixed",
)
small = dataclasses.replace(
    config,
    model="runs/quickstart/stages/2-student/bundle",
    data=Data(train="demo", eval="demo", max_length=32),
    epochs=1,
    out="runs/qbert-small",
)
