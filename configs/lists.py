"""Lists whose cells refer to other cells, copied by a block that decides by itself how often it is applied.

    bertjax lists --config=lists --out=runs/lists

Why not plain sums or copies: two numbers of 8 to 12 digits, given as pairs of digits, were added without a mistake in
1,000 lists by two rounds of the block (width 64), however far a carry came (up to 8 digits), so that halting had little
to learn. Following references one after the other cannot be looked up in one round.

2,000 lists that no training saw, one seed, 5 minutes on two CPU cores; difficulty (references in the longest chain) was
fixed beforehand:

    longest chain       1     2     3     4     5     6     7     8    all
    right %           100   100   100   100   100   100   100   100    100
    rounds           3.05  3.93  4.66  5.34  6.03  6.70  7.09  7.34   5.50

Rounds follow difficulty with a rank correlation of 0.898 (p < 1e-300) and length with -0.059. The same block at fixed
depths got 73.2 (2 rounds) and 100 (3 and 6): at equal rounds, 6, halting is no worse (difference 0.0, interval 0.0 to
0.1), but a fixed depth of 3 is as good with fewer. References can be followed by doubling, so that three rounds reach
through a chain of eight; a block that halts goes on longer than it would have to.

Time at batch 1, 35.0 % fewer rounds: nine measurements gave 83 to 99 % of the saving that these promise, in the median
92.

The price matters: at 0.02 (--ponder) all lists still come out right, but nearly all of them stop at the third round
(3.02 in the mean, correlation 0.159). A block of half the width at 0.01 (--hidden_size=128 --intermediate_size=512
--steps=1000) took 3.00 to 4.06 rounds, correlation 0.817, and realised 57 and 71 % on idle cores: a round of it takes
0.1 ms, and a call as much as several of them.
"""

from bertjax.recipes.lists import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.text.lists import Lists

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
