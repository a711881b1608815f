"""Half of the heads and half of the neurons are gone for good, what is left learns from the whole, then int8 and ONNX.

    bertjax compress --config=pruned --model=runs/tuned/bundle --data.train=train.tsv --data.eval=dev.tsv

MiniLM on SST-2, texts of up to 64 pieces (teacher 90.3 on 872 sentences, one seed, 900 steps of 32 texts; two threads,
beside other work, so the ratios alone are worth something): pruned 88.6 (-1.6 [-3.1, -0.1]), 2.0x less arithmetic; in 8
bits 88.5 (-1.7 [-3.2, -0.2]), 5.1x smaller; exported 4.9x as fast as the teacher's float32 file, for one text. The same
pruned model trained on the labels alone, without the teacher: 88.1, a difference that these sentences cannot show
(p = 0.42); a bag of words 81.1. More steps should win back more.

Without any training afterwards, heads gone by each measure (`python -m tests.benchmarks.heads`, 512 training texts):

    heads gone       10 %   20 %   30 %   40 %   50 %   60 %   70 %
    importance       90.1   90.3   89.3   89.4   89.1   87.4   86.9
    official         89.6   89.2   89.7   89.6   88.2   87.5   87.4
    transformers     89.6   89.6   89.1   89.0   87.8   87.8   85.7
    magnitude        90.4   89.8   90.4   89.8   88.2   87.0   83.8
    activity         89.8   89.2   88.8   87.3   86.0   85.1   82.1
    random           90.4   89.8   88.5   87.7   85.6   83.7   81.7
"""

from bertjax.distill.terms import SoftTargets
from train.compress import Config
from train.export import Export
from train.finetune import Finetune
from train.optimiser import Optimiser
from train.prune import Prune
from train.quantize import Quantize

RATE = Optimiser(learning_rate=1e-4, average=0.33)

config = Config(
    model="runs/tuned/bundle",
    stages=(
        Finetune(name="teacher", epochs=3, packed=True, batch_size=14, optimiser=RATE),
        Prune(
            name="pruned",
            heads=0.5,
            neurons=0.5,
            epochs=2,
            packed=True,
            batch_size=14,
            losses=(SoftTargets(temperature=2.0),),
            optimiser=RATE,
        ),
        Quantize(
            name="int8",
            learn="weights",
            steps=1000,
            batch_size=32,
            optimiser=Optimiser(learning_rate=3e-5, average=0.33),
        ),
        Export(name="int8-onnx"),
    ),
    out="runs/pruned",
)
