"""Learned Token Pruning (Kim et al. 2022): each layer learns how much attention a token needs to go on; 20 Newsgroups.

    bertjax finetune --model=hf:bert-base-uncased --data.train=news20/train.tsv --data.eval=news20/test.tsv \
        --data.max_length=512 --out=runs/tuned
    bertjax distill --config=ltp --model=runs/tuned/bundle

Columns of the tables: text and label. In the first half of the steps every token is multiplied by a soft mask and a
penalty raises the thresholds. In the second half they are fixed, what is below is hidden, and the model adapts.
`--transforms.0.penalty` decides how much goes.

Published, for RoBERTa-base on GLUE and SQuAD: thresholds that begin at 0.01 in the last layer, temperatures of 1e-4 to
2e-3, penalties of 0.01 to 0.2; one to ten epochs with soft masks at a rate of 2e-5, five with fixed thresholds at 5e-6
to 2e-5, batches of 64. Up to 2.1 times fewer FLOPs at less than one point lost, on texts without padding. The authors'
code masks tokens and removes none.

`small` is MiniLM with two epochs, for two cores, with TEACHER a MiniLM that was fine-tuned in the same way:

    bertjax distill --config=ltp:small --model=TEACHER
"""

from dataclasses import replace

from bertjax.distill.terms import HardLabels, SoftTargets
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student
from bertjax.token_dropping import LearnedThresholds

config = Config(
    student=Student(num_hidden_layers=12),
    losses=(HardLabels(),),
    data=Data(train="news20/train.tsv", eval="news20/test.tsv", max_length=512),
    epochs=10,
    batch_size=64,
    micro_batches=8,
    optimiser=Optimiser(learning_rate=2e-5),
    transforms=(LearnedThresholds(),),
    out="runs/ltp",
)
small = replace(
    config,
    student=Student(num_hidden_layers=6),
    losses=(SoftTargets(0.9, temperature=2.0), HardLabels(0.1)),
    data=replace(config.data, max_length=256),
    epochs=2,
    batch_size=16,
    micro_batches=1,
    optimiser=Optimiser(learning_rate=1e-4),
    transforms=(LearnedThresholds(first_threshold=0.006, temperature=5e-4),),
    out="runs/ltp-small",
)
