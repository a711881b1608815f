"""Take parts out of a model: heads, neurons, layers, for good; or weights, which stay where they are as zeros.

    bertjax prune --model=runs/tuned/bundle --heads=0.5 --neurons=0.5 --data.train=train.tsv --out=runs/pruned

What goes is what is worth least (`--criterion`, measured on training text, `bertjax.prune`), at once or in several
rounds with the worth of the rest measured anew. What that costs is then won back: the smaller model learns from the
whole one, as in train.distill. Layers of different shapes are described by the config, and each is as fast as it is
small: with --speedup=2 instead of parts, as many heads and neurons go as make it so fast here, which is measured.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.prune import main

if __name__ == "__main__":
    run(main, __doc__)
