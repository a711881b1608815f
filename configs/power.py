"""PoWER-BERT (Goyal et al. 2020): a factor for each rank learns how many tokens a layer needs; 20 Newsgroups.

    bertjax distill --config=power --model=TEACHER --data.train=news20/train.tsv --data.eval=news20/test.tsv
    bertjax distill --config=power:hard --model=TEACHER --data.train=news20/train.tsv --data.eval=news20/test.tsv

TEACHER is a model of six layers that was fine-tuned on the same text. The first run begins with it, trains the factors
with it and leaves a model that drops tokens, runs/power/bundle. The second trains that one with the tokens really
dropped. `--transforms.0.penalty` decides how many go.

Published, BERT-base on GLUE at less than one point lost (the authors' README): 2.0 to 4.5 times as fast, on texts that
were padded to 64, 128 or 256 tokens. Much of that is the padding: a text of CoLA has 11 tokens. Rates of 2e-5 to 6e-5
for the model and 1e-4 to 3e-3 for the factors, penalties of 1e-4 to 7e-3, batches of 16 to 64, three to five epochs for
each run. These recipes have not been run to their end yet.
"""

from dataclasses import replace

from bertjax.distill.terms import HardLabels, SoftTargets
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student
from bertjax.token_dropping import SoftExtraction

config = Config(
    student=Student(num_hidden_layers=6),
    losses=(SoftTargets(0.9, temperature=2.0), HardLabels(0.1)),
    data=Data(train="news20/train.tsv", eval="news20/test.tsv", max_length=512, rows=4_000),
    epochs=3,
    batch_size=16,
    optimiser=Optimiser(learning_rate=5e-5),
    transforms=(SoftExtraction(penalty=1e-3),),
    out="runs/power",
)
hard = replace(config, student=Student(init_from="runs/power/bundle", as_is=True), transforms=(), out="runs/power-hard")
