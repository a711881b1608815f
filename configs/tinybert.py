"""TinyBERT, four layers of width 312, in its three stages (Jiao et al. 2020): 14,350,248 parameters.

    bertjax pretrain --config=tinybert:general --data.train=FOLDER --out=runs/tiny-general
    bertjax augment --config=tinybert:augment --data.train=train.tsv --copies=sst2 --out=runs/tiny-text
    bertjax distill --config=tinybert:intermediate --model=TEACHER --data.eval=dev.tsv --out=runs/tiny-layers
    bertjax distill --config=tinybert:prediction --model=TEACHER --data.eval=dev.tsv --out=runs/tinybert

On raw text a student of random numbers learns the attention scores and hidden states of BERT-base (the embeddings among
them, through a projection that is not kept). On the text of the task, with copies in which words were exchanged, it
learns the same of TEACHER, BERT-base fine-tuned; and then what the teacher answers, without the labels. Weights are 1,
summed over layers. General: 3 epochs of English Wikipedia, length 128, batches of 256; intermediate: 20 epochs (10 for
MNLI, QQP and QNLI, 50 for CoLA), batches of 32, rate 5e-5, constant; prediction: 3 epochs, rate 3e-5 with warm-up.
Length 64 for single texts, 128 for pairs. `six` is the general stage of the six layers of width 768, 66,955,008.

What the published code does besides, and this does not: it leaves the teacher's dropout on, takes the mean over padding
as well (preset="official" does that), and has a ReLU behind the pooler (`classifier_activation`, which a student takes
over from a teacher that has it). For STS-B it learns the labels in the last stage: HardLabels in place of SoftTargets.

    bertjax pretrain --config=tinybert:small_general --out=runs/tiny-small-general
    bertjax augment --config=tinybert:small_augment --out=runs/tiny-small-text
    bertjax distill --config=tinybert:small_intermediate --model=runs/finetune/bundle --out=runs/tiny-small-layers
    bertjax distill --config=tinybert:small_prediction --model=runs/finetune/bundle --out=runs/tinybert-small

is the same at a size that fits a laptop, on the demo; the teacher is what `bertjax finetune` leaves.

Not run at full size: tests check the number of parameters and that the whole step of each stage can be traced.
"""

from dataclasses import replace

from bertjax.distill.terms import AttentionScores, HiddenStates, SoftTargets
from bertjax.recipes import augment as augmentation
from bertjax.recipes import distill, pretrain
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.pretrain import Text
from bertjax.student import Student
from bertjax.text.masking import Masking

shape = Student(num_hidden_layers=4, hidden_size=312, intermediate_size=1200, init_from="random")
layers = (AttentionScores(preset="paper"), HiddenStates(preset="paper"))

general = pretrain.Config(
    model="hf:bert-base-uncased",
    data=Text(train="text", max_length=128),
    sentences="none",
    masking=Masking(unit="tokens", rate=0.15),
    mlm_weight=0.0,
    student=shape,
    losses=layers,
    epochs=3,
    batch_size=256,
    optimiser=Optimiser(learning_rate=5e-5),
    dtype="bfloat16",
    save_every=2000,
    out="runs/tiny-general",
)
six = replace(general, student=Student(num_hidden_layers=6, init_from="random"), out="runs/tiny-general-6")

augment = augmentation.Config(model="hf:bert-base-uncased", copies="sst2", out="runs/tiny-text")

intermediate = distill.Config(
    model="runs/finetune/bundle",
    data=Data(train="runs/tiny-text/augmented.jsonl", eval="dev.tsv", max_length=64),
    student=Student(num_hidden_layers=4, init_from="runs/tiny-general/bundle"),
    losses=layers,
    epochs=20,
    batch_size=32,
    optimiser=Optimiser(learning_rate=5e-5, warmup=0.0, decay="constant"),
    store=False,  # 20 copies of every layer of every text would fill the disk
    save_every=2000,
    out="runs/tiny-layers",
)

prediction = replace(
    intermediate,
    student=replace(intermediate.student, init_from="runs/tiny-layers/bundle"),
    losses=(SoftTargets(temperature=1.0, preset="tinybert"),),
    epochs=3,
    optimiser=Optimiser(learning_rate=3e-5),
    store=True,
    out="runs/tinybert",
)

config = prediction

small_general = replace(
    general,
    model="demo",
    data=Text(train="demo", max_length=32),
    student=replace(shape, num_hidden_layers=2, hidden_size=192, intermediate_size=768),
    batch_size=32,
    dtype="float32",
    optimiser=Optimiser(learning_rate=5e-4),
    out="runs/tiny-small-general",
)
small_augment = replace(augment, model="demo", substitutes="neighbours", copies=2, out="runs/tiny-small-text")
small_intermediate = replace(
    intermediate,
    data=Data(train="runs/tiny-small-text/augmented.jsonl", eval="demo", max_length=32),
    student=Student(num_hidden_layers=2, init_from="runs/tiny-small-general/bundle"),
    epochs=1,
    optimiser=replace(intermediate.optimiser, learning_rate=2e-4),
    out="runs/tiny-small-layers",
)
small_prediction = replace(
    prediction,
    data=small_intermediate.data,
    student=Student(num_hidden_layers=2, init_from="runs/tiny-small-layers/bundle"),
    epochs=1,
    optimiser=Optimiser(learning_rate=2e-4),
    out="runs/tinybert-small",
)
