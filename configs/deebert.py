"""DeeBERT on SST-2 (Xin et al. 2020): a fine-tuned MiniLM is frozen, its exits are trained on the labels.

    python -m tests.benchmarks.hold_out SST-2/train.tsv held-out
    bertjax finetune --data.train=held-out/train.tsv --data.eval=held-out/held_out.tsv --data.max_length=64 --packed \
        --batch_size=14 --optimiser.learning_rate=1e-4 --epochs=3 --optimiser.swa_fraction=0.33 --out=runs/tuned
    bertjax exits --config=deebert --data.train=held-out/train.tsv --data.eval=SST-2/dev.tsv --dtype=bfloat16 \
        --out=runs/deebert
    bertjax calibrate --model=runs/deebert/bundle --held_out=held-out/held_out.tsv --data.eval=SST-2/dev.tsv \
        --data.max_length=64 --sample=872 --out=runs/deebert-early

One exit, on the embeddings: a bag of words in front of six layers, which is trained in half a minute, because no layer
has to be computed for it. Every exit is paid for by those who do not take it, and what a late one saves is little: the
plain model computes one row of its last layer, so that layer is the cheapest. It reads the mean of the tokens, unlike
DeeBERT's: from the first token the exits after the lower three layers of this model, which was pre-trained with mean
pooling, learnt 67, 74 and 51 % (5e-4, 3 epochs), and the first token's embedding says nothing.

Seed 0, the exit trained in bfloat16, 872 dev sentences in float32, all of them timed, on two CPU cores; the exit alone
scores 80.7 on the held-out text. Thresholds are of entropy; ms are per text, one by one, in a batch of 32, and in many
batches of 32; saved are layers, and then time against the plain model in batches of like length:

    docs/results/deebert.json
    threshold            accuracy [95 %]  depth  saved  FLOPs  ms, one  saved  ms, batch  saved  ms, many  saved
    no exits           88.4 [86.4, 90.6]   6.00      -   449M     4.73      -       2.58      -      2.66      -
    no early exit      88.4 [86.4, 90.6]   6.00    0 %   449M     4.94   -3 %       2.70   -3 %      2.69   -1 %
    0.036              88.4 [86.4, 90.6]   5.78    4 %   433M     4.77   -2 %       2.67   -2 %      2.65    1 %
    0.107              88.5 [86.5, 90.7]   5.23   13 %   392M     4.46    6 %       2.49    4 %      2.43    7 %
    0.188              88.4 [86.4, 90.5]   4.69   22 %   351M     4.03   14 %       2.29   13 %      2.22   17 %
    0.252              88.2 [86.1, 90.4]   4.29   28 %   322M     3.72   19 %       2.10   19 %      2.07   21 %
    0.329              87.8 [85.8, 90.0]   3.71   38 %   278M     3.32   30 %       1.85   29 %      1.81   32 %
    0.397, calibrated  87.8 [85.8, 90.0]   3.27   46 %   245M     2.94   38 %       1.65   36 %      1.63   39 %
    0.416              87.8 [85.7, 89.9]   3.14   48 %   235M     2.91   38 %       1.61   39 %      1.57   41 %
    oracle             88.4 [86.4, 90.6]   1.08   82 %    81M        -      -          -      -         -      -

Time saved is the median of five repeats, milliseconds are medians by themselves. The calibrated threshold loses 0.6
points here (-0.5 to 1.7). Of the layers that it saves, 84 % is time saved on one sentence, 79 % in a batch of 32 by
itself, and 85 % where several batches come at once, as in `bundle.predict`, and the examples that remain go on
together. What is missing is mostly that short texts are the easy ones. In two measurements before, one sentence saved
37 and 39 % and paid 1 and 4 % where no example exits; several batches saved 38 and 40 %.

After the first layer instead (--after 0 --epochs=2) the exit alone scores 81.2 on the dev set, and calibration saves as
many layers, 46 %, at 88.1; but an example that exits there has paid for one. The places were compared with the 872
sentences known, so these have chosen too.
"""

from bertjax.recipes.data import Data
from bertjax.recipes.exits import Config
from bertjax.recipes.optimiser import Optimiser

config = Config(
    model="runs/tuned/bundle",
    data=Data(train="held-out/train.tsv", eval="SST-2/dev.tsv", max_length=64),
    epochs=8,
    batch_size=64,
    after=(-1,),
    reads="mean",
    optimiser=Optimiser(learning_rate=1e-3),
    out="runs/deebert",
)
