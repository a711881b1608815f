"""Lists whose cells refer to other cells, copied by a block that decides by itself how often it is applied.

    bertjax lists --config=lists --out=runs/lists

Why not plain sums or copies: two numbers of 8 to 12 digits, given as pairs of digits, were added without a mistake in
1,000 lists by two rounds of the block (width 64), however far a carry came (up to 8 digits), so that halting had little
to learn. Following references one after the other cannot be looked up in one round.

2,000 lists that no training saw, one seed; difficulty (references in the longest chain) was fixed beforehand:

    longest chain       1     2     3     4     5     6     7     8    all
    right %           100   100   100   100   100   100   100   100    100
    rounds           3.00  3.00  3.17  3.52  3.87  4.02  4.02  4.06   3.58

Rounds follow difficulty with a rank correlation of 0.817 (p < 1e-300) and length with -0.128. The same block at fixed
depths got 36.4 (1 round), 73.0 (2) and 100 (3, 4, 5 and 8): at equal rounds, 4, halting is no worse, but a fixed depth
of 3 is as good with fewer. At this price halting never stops before the third round, although one is enough where no
chain is longer than one reference; a higher --ponder was not tried.

Time at batch 1 (56.6 % fewer rounds): two measurements on two idle CPU cores gave 57 and 71 % of the saving that the
rounds promise, eight on busy ones 69 to 89 %. A round takes about 0.1 ms here and a call 0.1 to 0.4 ms beside its
rounds, so a wider block (--hidden_size=256 --intermediate_size=1024) should realise more; it has not been trained.
"""

from bertjax.text.lists import Lists
from train.lists import Config
from train.optimiser import Optimiser

config = Config(
    lists=Lists(shortest=12, longest=16, references=8),
    hidden_size=256,
    intermediate_size=1024,
    num_attention_heads=4,
    rounds=8,
    depths=(2, 3, 6),
    bias=-2.0,
    ponder=0.005,
    steps=500,
    batch_size=32,
    optimiser=Optimiser(learning_rate=1e-3),
    out="runs/lists",
)
