"""CoFi (Xia, Zhong & Chen 2022): heads, neurons and whole sublayers leave a fine-tuned MiniLM while it learns from
itself as it was, until the file for ONNX Runtime is twice as fast.

    bertjax latency --model=TEACHER --data.eval=SST-2/dev.tsv --data.max_length=64 --out=runs/latency
    bertjax distill --config=cofi --model=TEACHER --data.train=SST-2/train.tsv --data.eval=SST-2/dev.tsv
    bertjax distill --config=cofi:size --model=TEACHER ...
    bertjax export runs/cofi/bundle --to onnx --out runs/cofi/onnx

TEACHER is a fine-tuned model, such as runs/tuned/bundle of configs/sst2.py. The student learns its probabilities and
the hidden states of four of its layers, each in the nearest layer that is left at the time (`MatchedStates`). `size`
removes 60 % of the encoder's weights instead, hidden columns among them. `--transforms.0.speedup=3` asks for more. The
gates are decided after 60 % of the steps; the rest trains what stays.

Published, BERT-base (the authors' results): 60 % of the weights gone, 2.0 to 2.1 times as fast, MNLI 85.3, QNLI 91.8,
SST-2 93.0; 95 % gone, 12.1 times as fast, MNLI 80.6, QNLI 86.1, SST-2 90.4; 20 epochs, then 20 more of fine-tuning,
gates at a rate of 0.01 and the model at 2e-5. Their distillation: hidden states weigh 0.9 and probabilities 0.1 (of
0.9 and 0.1, 0.7 and 0.3, 0.5 and 0.5), temperature 2, teacher layers 2, 5, 8 and 11 of 12, no loss on labels.

These weights and the temperature are used here. Ours are the teacher layers 1, 2, 4 and 5 of 6, errors over real tokens
alone (their code counts padding) and the schedule. These recipes have not been run to their end yet.
"""

from dataclasses import replace

from bertjax.distill.terms import MatchedStates, SoftTargets
from bertjax.prune import CoFi
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student

TIMES = "runs/latency/latency.json"

config = Config(
    student=Student(num_hidden_layers=6),
    losses=(MatchedStates(0.9, preset="paper"), SoftTargets(0.1, temperature=2.0)),
    data=Data(train="SST-2/train.tsv", eval="SST-2/dev.tsv", max_length=64, rows=20_000),
    epochs=6,
    packed=True,
    batch_size=8,
    optimiser=Optimiser(learning_rate=1e-4),
    transforms=(CoFi(speedup=2.0, table=TIMES, parts=("heads", "attention", "neurons", "ffn")),),
    out="runs/cofi",
)
size = replace(config, transforms=(CoFi(sparsity=0.6),), out="runs/cofi-size")
