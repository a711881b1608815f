"""How small MiniLM can be on SST-2: 8 bits, then 2 and 3 for the layers, 4 for the words, and fewer words.

    bertjax compress --config=qbert_sst2:tables4 --model=runs/sst2-0/stages/1-teacher/bundle \
        --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv --out=runs/tables4
    bertjax verify runs/tables4/bundle --against runs/sst2-0/stages/1-teacher/bundle --data SST-2/dev.tsv \
        --max-length 64 --max-drop 2 --max-mb 11.4

The model given is the teacher as it is; without a trained head it is fine-tuned first, as in configs/sst2.py. Each
name is a recipe. Megabytes are those of all files of the bundle, tokenizer, scales and offsets included; in floating
point it has 91.81. Accuracy is that of the 872 dev sentences, where the teacher (seed 0 of the packed runs in
configs/sst2.py) has 90.1 [88.1, 92.1]; one seed, each dev reading is reported:

    docs/results/qbert_sst2.json
    name          weights of the encoder         tables                       MB  smaller  accuracy      lost [95 %]
    int8          8 bits by output, not trained  8 bits by row             23.99    3.83x      90.0  0.1 [-0.6, 0.9]
    int8_learned  the same, learned              8 bits by row             23.99    3.83x      90.1  0.0 [-1.1, 1.1]
    tables8       2 or 3 bits by layer, learned  8 bits by row             16.87    5.44x      90.0  0.1 [-1.1, 1.4]
    tables4       the same                       words 4 bits, the rest 8  11.13    8.25x      89.6  0.6 [-0.8, 1.9]
    vocabulary    the same                       11,602 words of 30,522     6.75   13.60x      89.4  0.7 [-0.7, 2.1]

The encoder's weights are 11.9 times smaller, scales and offsets included (its biases and LayerNorms too: 11.6 times).
In JAX and batches of 32, 8 bits label 3.1 and 2 or 3 bits 2.2 times as many texts a second as floating point, one by
one 1.9 and 1.4 times (`bertjax evaluate --model=INT8 --against FLOAT --data.eval=dev.tsv --data.max_length=64`, two
cores with VNNI). None of the losses is statistically distinguishable from zero, and all lie within 2.3 points. Fewer
words alone, in floating point, lose 0.3 [-0.5, 1.1]. The gate holds for each as it lies on the disk, with --max-drop
2.3 and --max-mb 18.3, 11.4 and 9.1.

What is learned is the teacher's probabilities and hidden states, with all rounding in place and every range a parameter
(Esser et al. 2020), in 1,200 steps of 32: about 16 minutes on one core. Which layers get three bits is found by
rounding each alone: at 2.8 bits on average the lower four of the six. Inputs of products have 8 bits throughout;
LayerNorms, biases and the classifier stay float32.

Words take half of a small model at 8 bits, so they decide below: at 4 bits by row with an offset they lie 0.103 of
their size off, without one 0.111; three ranges to a row make that 0.094 and the file half a megabyte larger.

Who shares a range, at equal bits (three for the lower four layers, two for the others) and trained alike:

    docs/results/qbert_sst2_ranges.json
    name      range shared by      tables            MB  smaller  accuracy      lost [95 %]
    matrix    one for all          8 bits by row  16.83    5.45x      89.9  0.2 [-1.0, 1.5]
    groups    one for six outputs  8 bits by row  16.87    5.44x      90.0  0.1 [-1.1, 1.4]
    channels  one for each output  8 bits by row  17.01    5.40x      89.7  0.5 [-0.9, 1.9]

Who shares makes no difference that these sentences can show (groups against channels 0.3 [-1.0, 1.7]): where every
range is learned with the weights, one for a whole matrix does. The bits that were found for `tables8` are those of
`groups`, so the two are one model. Q-BERT's own ablation on MNLI at 4 bits: 76.7 with one group, 83.9 with 128, 84.0
with 768 (Shen et al. 2020).
"""

import dataclasses

from bertjax.distill.terms import HiddenStates, SoftTargets
from bertjax.quantized.formats import INT8, TABLE, Format, full_int8
from bertjax.recipes.compress import Config
from bertjax.recipes.data import Data
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.quantize import Quantize
from bertjax.recipes.vocabulary import Vocabulary

TEACHER = Finetune(name="teacher", epochs=2, batch_size=64, optimiser=Optimiser(learning_rate=1e-4), save_every=500)
TABLES = (r"^embeddings/.*embedding$", TABLE)
WORDS = (r"^embeddings/word/embedding$", Format(4, "asymmetric", block_rows=1, block_cols=None))
POOLER = (r"^pooler/kernel$", Format())


def learned(name: str, *weights: tuple[str, Format | None], **changes) -> Quantize:
    """Rounding that is learned in place."""
    recipe = Quantize(
        name=name,
        weights=weights,
        qat="lsq",
        losses=(SoftTargets(temperature=1.0), HiddenStates()),
        steps=1200,
        batch_size=32,
        optimiser=Optimiser(learning_rate=5e-5),
        save_every=200,
    )
    return dataclasses.replace(recipe, **changes)


def mixed(name: str, *tables: tuple[str, Format | None]) -> Quantize:
    """Two or three bits for a layer, 2.8 on average."""
    choices = tuple(Format(bits, "asymmetric", block_cols=6) for bits in (2, 3))
    return learned(name, *tables, POOLER, mean_bits=2.8, choices=choices)


def shared(name: str, outputs: int | None) -> Quantize:
    """Bits that are given, and a range for so many outputs."""
    three, two = (Format(bits, "asymmetric", block_cols=outputs) for bits in (3, 2))
    lower, upper = (r"^encoder/layer_[0-3]/.*kernel$", three), (r"^encoder/.*kernel$", two)
    return learned(name, TABLES, POOLER, lower, upper)


def recipe(name: str, *stages) -> Config:
    data = Data(train="SST-2/train.tsv", eval="SST-2/dev.tsv", max_length=64)
    return Config(model="demo", data=data, stages=(TEACHER, *stages), out=f"runs/qbert-{name}")


int8 = recipe("int8", Quantize(name="int8", full_int8=True))
int8_learned = recipe("int8-learned", learned("int8-learned", *full_int8(INT8)))
config = tables8 = recipe("tables8", mixed("tables8", TABLES))
tables4 = recipe("tables4", mixed("tables4", WORDS, TABLES))
vocabulary = recipe("vocabulary", Vocabulary(), mixed("vocabulary", WORDS, TABLES))
matrix, groups, channels = (
    recipe(name, shared(name, outputs)) for name, outputs in (("matrix", None), ("groups", 6), ("channels", 1))
)
