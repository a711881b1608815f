"""A sentence embedding of three of MiniLM's six layers, taught on text without labels, then in integers.

    bertjax compress --config=embedding --out=runs/embedding
    bertjax compress --config=embedding --data.train=sentences.txt --data.eval=held_out.txt --out=runs/mine

The teacher is the demo as all-MiniLM-L6-v2 (mean pooling, vectors of length 1). The student learns its vectors, and the
similarities within each batch. The score is the mean, over held-out texts, of the rank correlation of a text's
similarities to the others with the teacher's. The report has TF-IDF and a static table of words beside the models.

`two_layers` keeps two layers with half of their neurons; `thin` keeps all six, with a third of the heads and a quarter
of the neurons. Each is one command:

    bertjax distill --config=embedding:two_layers --out=runs/embedding-two
    bertjax prune --config=embedding:thin --out=runs/embedding-thin

With --data.rows=24000 of 48,050 sentences of WikiText-2 (validation) and SST-2 (train), of 14 words on average, and
seed 0, the score on 1,200 sentences of their test and dev splits was 0.84 for three_layers and 0.77 for two_layers. The
first three layers, untrained, have 0.57 (bertjax prune --model=demo-embedder --data.kind=embedding --keep_layers 0 1 2
--finetune_after=False). The weights of the losses are not tuned.
"""

from bertjax.distill.terms import Embeddings, Similarities
from bertjax.recipes.compress import Config
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config as Distillation
from bertjax.recipes.distill import Distill
from bertjax.recipes.export import Export
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.prune import Config as Pruning
from bertjax.recipes.quantize import Quantize
from bertjax.student import Student

TEXT = Data(train="demo", eval="demo", kind="embedding", max_length=64)
LOSSES = Embeddings(), Similarities(temperature=0.05)
RATE = Optimiser(learning_rate=2e-4)

config = Config(
    model="demo-embedder",
    data=TEXT,
    stages=(
        Finetune(name="teacher"),  # which the demo is already
        Distill(
            name="student",
            epochs=2,
            batch_size=64,
            student=Student(num_hidden_layers=3),
            losses=LOSSES,
            optimiser=RATE,
        ),
        Quantize(name="int8"),
        Export(name="int8-onnx"),
    ),
    out="runs/embedding",
)
three_layers = Distillation(
    model="demo-embedder",
    data=TEXT,
    student=Student(num_hidden_layers=3),
    losses=LOSSES,
    epochs=2,
    batch_size=64,
    optimiser=RATE,
    out="runs/embedding-three",
)
two_layers = Distillation(
    model="demo-embedder",
    data=TEXT,
    student=Student(num_hidden_layers=2, intermediate_size=768),
    losses=LOSSES,
    epochs=2,
    batch_size=64,
    optimiser=RATE,
    out="runs/embedding-two",
)
thin = Pruning(
    model="demo-embedder",
    data=TEXT,
    heads=0.66,
    neurons=0.75,
    criterion="activity",
    losses=LOSSES,
    epochs=2,
    batch_size=64,
    optimiser=RATE,
    out="runs/embedding-thin",
)
