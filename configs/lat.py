"""Length-Adaptive Transformer (Kim & Cho 2021): a model that works with any number of tokens, and a search for the
numbers that a budget allows; 20 Newsgroups.

    bertjax distill --config=lat --model=TEACHER --data.train=news20/train.tsv --data.eval=news20/test.tsv
    bertjax drop_tokens --config=lat:half --data.train=news20/train.tsv --data.eval=news20/test.tsv

TEACHER is a model of six layers that was fine-tuned on the same text. One training serves every budget:
`--flops=0.7 --out=runs/lat-third` searches for another.

Published: up to 20 % of the tokens dropped in a layer, one pass with all tokens, one with the fewest and two between in
each update, rates of 2e-5 (GLUE) and 5e-5 (SQuAD), batches of 32; the search has 30 generations of 60 candidates, on
the text that is reported. Results are curves over FLOPs, without times.

With MiniLM, two epochs of texts cut at 256 tokens (--epochs=2 --data.max_length=256 --optimiser.learning_rate=1e-4)
left a model that is as good with all tokens as its teacher (76.2 against 75.6, paired -0.3 to 1.6 better). It lost 2.1
points (0.7 to 3.5) with 40 % of the arithmetic, without training for these numbers of tokens. The teacher lost 0.9
after one more pass with numbers that were searched for it (docs/results/token_dropping_news20.json).
"""

from bertjax.distill.terms import HardLabels, SoftTargets
from bertjax.recipes import drop_tokens
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student
from bertjax.token_dropping import LengthDrop

DATA = Data(train="news20/train.tsv", eval="news20/test.tsv", max_length=512, rows=4_000)

config = Config(
    student=Student(num_hidden_layers=6),
    losses=(SoftTargets(0.9, temperature=2.0), HardLabels(0.1)),
    data=DATA,
    epochs=3,
    batch_size=16,
    optimiser=Optimiser(learning_rate=5e-5),
    transforms=(LengthDrop(),),
    out="runs/lat",
)
half = drop_tokens.Config(
    model="runs/lat/bundle", data=DATA, flops=0.5, ranked_by="all", finetune_after=False, out="runs/lat-half"
)
