"""MobileBERT, 24 thin layers, from its teacher IB-BERT, both from raw text (Sun et al. 2020): 24,581,888 parameters.

    bertjax pretrain --config=mobilebert:teacher --data.train=FOLDER --out=runs/ib-bert
    bertjax pretrain --config=mobilebert:layers --data.train=FOLDER --out=runs/mobilebert-layers
    bertjax pretrain --config=mobilebert --data.train=FOLDER --out=runs/mobilebert

PyTorch counts 24,844,544, with a pooler that the published model has none of. First a BERT-large is trained whose
layers hand on 512 columns and compute in 1,024, by words and next sentences as in BERT: 500,000 steps of 2,048 rows,
LAMB, rate 1.5e-3 after 10,000 steps of warm-up. The student takes its embeddings and head, and its layers learn one
after another, 10,000 steps each at three times the rate, a tenth of it once the next one learns: feature maps (100
times the error of normalised states, 5,000 and 5 times that of their means and variances) and attention maps, each over
24. Then it trains as the teacher did, where half of the weight of the hidden words goes to the teacher's probabilities.
English Wikipedia and BooksCorpus, 512 tokens.

These are the numbers of the published command for the student; there is none for the teacher, which gets those of the
last stage. What the code behind it does besides, and this does not: it drops nothing of the student's attention while
there is a teacher, lets the rate of a phase fall by a tenth once it is reached, hides at most 20 tokens of a row, and
compares means and variances with those of every layer of the teacher.

IB-BERT's weights were never published. An ordinary BERT teaches as well, by what does not need its widths:

    bertjax pretrain --config=mobilebert:layers_of_bert --data.train=FOLDER --out=runs/mobilebert-layers-of-bert
    bertjax pretrain --config=mobilebert:from_bert --data.train=FOLDER --out=runs/mobilebert-from-bert

BERT-large hands on 1,024 columns and has 16 heads, so neither feature maps (512) nor attention maps (4) can be
compared. Each layer learns how queries, keys and values relate (`Relations`, of MiniLM's second version) in 16 heads
cut anew from 128 columns and from 1,024, and the embeddings, which are not the teacher's, learn with the first. The
last stage stays. With BERT-base name each of its 12 layers twice (pairing), or make the student 12 layers deep. No
paper has done this.

    bertjax pretrain --config=mobilebert:small_teacher
    bertjax pretrain --config=mobilebert:small_layers
    bertjax pretrain --config=mobilebert:small

is the whole chain with four layers, at a size that fits a laptop, on the demo. Of it the teacher was run, with a
schedule for 1,200 steps that ended after 1,000, on two CPU cores that other jobs kept busy (11 minutes): held-out
masked tokens 5.52 nats (entropy of their own frequencies 6.37), 15.4 % guessed. So it knows little that a student could
learn, and what the student's stages bring is not known.

A phase costs the layers that it needs: with a teacher of 20 steps (small_teacher --steps=20), the steps of small_layers
took 30, 41, 51 and 64 ms in the first to the fourth phase (medians of differences between the times in metrics.jsonl,
two quiet CPU cores), about 11 a layer on top of what all phases share. Nothing was compiled between phases.

Not run at full size: tests check the number of parameters, and that the step of each stage can be traced.
"""

from dataclasses import replace

from bertjax.distill.progressive import Progressive
from bertjax.distill.terms import AttentionMaps, FeatureMaps, MLMSoftTargets, Relations
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.pretrain import Config, Shape, Text
from bertjax.student import Student
from bertjax.text.masking import Masking

shape = Student(
    num_hidden_layers=24,
    hidden_size=512,
    bottleneck_size=128,
    num_attention_heads=4,
    intermediate_size=512,
    family="mobilebert",
)

teacher = Config(
    shape=Shape(
        family="ib-bert",
        embedding_size=128,
        hidden_size=512,
        bottleneck_size=1024,
        num_hidden_layers=24,
        num_hidden_groups=0,
        num_attention_heads=4,
        intermediate_size=4096,
    ),
    vocab_size=30_522,
    data=Text(train="text", max_length=512),
    sentences="next",
    masking=Masking(unit="tokens", rate=0.15),
    steps=500_000,
    batch_size=2048,
    micro_batches=64,
    optimiser=Optimiser(rule="lamb", learning_rate=1.5e-3, warmup=0.02, weight_decay=0.01, epsilon=1e-6),
    dtype="bfloat16",
    save_every=5000,
    out="runs/ib-bert",
)

one_by_one = Progressive(
    steps_per_layer=10_000,
    below=0.1,
    losses=(FeatureMaps(weight=1 / 24, preset="official"), AttentionMaps(weight=1 / 24, preset="official")),
)

layers = replace(
    teacher,
    model="runs/ib-bert/bundle",
    shape=Shape(),
    vocab_size=None,
    student=shape,
    progressive=one_by_one,
    steps=240_000,
    optimiser=replace(
        teacher.optimiser,
        learning_rate=4.5e-3,
        warmup=0.1,
        lr_multipliers=(("^params/embeddings/", 0.0),),  # they are the teacher's already
    ),
    out="runs/mobilebert-layers",
)

student = Student(init_from="runs/mobilebert-layers/bundle", as_is=True)

config = replace(
    teacher,
    model="runs/ib-bert/bundle",
    shape=Shape(),
    vocab_size=None,
    student=student,
    mlm_weight=0.5,
    losses=(MLMSoftTargets(weight=0.5, temperature=1.0),),
    out="runs/mobilebert",
)

layers_of_bert = replace(
    layers,
    model="hf:bert-large-uncased",
    progressive=replace(one_by_one, losses=(Relations(heads=16),)),
    optimiser=replace(layers.optimiser, lr_multipliers=()),
    out="runs/mobilebert-layers-of-bert",
)
from_bert = replace(
    config,
    model="hf:bert-large-uncased",
    student=replace(student, init_from="runs/mobilebert-layers-of-bert/bundle"),
    out="runs/mobilebert-from-bert",
)

small_teacher = replace(
    teacher,
    shape=replace(
        teacher.shape,
        embedding_size=64,
        hidden_size=128,
        bottleneck_size=192,
        num_hidden_layers=4,
        intermediate_size=512,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    ),
    vocab_size=4000,
    data=Text(train="demo", eval="demo", max_length=32),
    sentences="none",  # a review is one sentence
    steps=1000,
    batch_size=32,
    micro_batches=1,
    optimiser=replace(teacher.optimiser, rule="adamw", warmup=0.1),
    dtype="float32",
    save_every=200,
    out="runs/ib-bert-small",
)
small_layers = replace(
    small_teacher,
    model="runs/ib-bert-small/bundle",
    shape=Shape(),
    vocab_size=None,
    student=replace(shape, num_hidden_layers=4, hidden_size=128, bottleneck_size=64, intermediate_size=128),
    progressive=Progressive(
        steps_per_layer=50,
        losses=(FeatureMaps(weight=1 / 4, preset="official"), AttentionMaps(weight=1 / 4, preset="official")),
    ),
    steps=200,
    optimiser=replace(layers.optimiser, rule="adamw", learning_rate=3e-3),
    out="runs/mobilebert-small-layers",
)
small = replace(
    config,
    model="runs/ib-bert-small/bundle",
    data=small_teacher.data,
    student=Student(init_from="runs/mobilebert-small-layers/bundle", as_is=True),
    sentences="none",
    steps=400,
    batch_size=32,
    micro_batches=1,
    optimiser=small_teacher.optimiser,
    dtype="float32",
    save_every=200,
    out="runs/mobilebert-small",
)
