"""MiniLM, six layers of width 384, from BERT-base on raw text (Wang et al. 2020, and 2021): 22,713,216 parameters.

    bertjax pretrain --config=minilm --data.train=FOLDER --out=runs/minilm
    bertjax pretrain --config=minilm:v2 --data.train=FOLDER --out=runs/minilm-v2

The student begins with random numbers. Its last layer learns how the teacher's last layer attends, and how its values
relate, both as divergences with weight 1, over the 12 heads that the two share; nothing else is asked, and its authors
found that guessing words makes it worse. Batches of 512 rows, rate 4e-4 after 4,000 of 400,000 steps of warm-up, decay
0.01, dropout 0.1. The paper took English Wikipedia and BooksCorpus.

In the second version queries, keys and values relate each to themselves, with the vectors of all heads cut anew into 48
relation heads, so that student and teacher need not have as many heads. From BERT-large take 64 of them, of its layer
20 (--losses.0.heads=64 --losses.0.teacher_layer=20). The numbers of the training are those of the first paper.

`small` and `small_v2` are the same at a size that fits a laptop, on the demo and its model:

    bertjax pretrain --config=minilm:small --out=runs/minilm-small

Not run at full size: tests check the number of parameters and that the whole step can be traced. The authors published
models and no code for distillation, so there is nothing else to compare with.
"""

from dataclasses import replace

from bertjax.distill.terms import Relations
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.pretrain import Config, Text
from bertjax.student import Student
from bertjax.text.masking import Masking

attention_and_values = Relations(of=(("queries", "keys"), ("values", "values")), heads=None, preset="paper")
shape = Student(num_hidden_layers=6, hidden_size=384, intermediate_size=1536, init_from="random")

config = Config(
    model="hf:bert-base-uncased",
    data=Text(train="text", max_length=512),
    sentences="none",
    masking=Masking(rate=0.0),
    mlm_weight=0.0,
    student=shape,
    losses=(attention_and_values,),
    steps=400_000,
    batch_size=512,
    micro_batches=8,
    optimiser=Optimiser(learning_rate=4e-4, warmup=0.01, weight_decay=0.01),
    dtype="bfloat16",
    save_every=5000,
    out="runs/minilm",
)
v2 = replace(config, losses=(Relations(heads=48, preset="paper"),), out="runs/minilm-v2")

small = replace(
    config,
    model="demo",
    data=Text(train="demo", max_length=64),
    student=replace(shape, num_hidden_layers=2, hidden_size=192, intermediate_size=768),
    steps=2000,
    batch_size=32,
    micro_batches=1,
    dtype="float32",
    save_every=200,
    out="runs/minilm-small",
)
small_v2 = replace(small, losses=v2.losses, out="runs/minilm-small-v2")
