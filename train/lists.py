"""Does a model that halts by itself think longer about harder inputs? Lists are copied whose cells refer to others.

    bertjax lists --config=lists --out=runs/lists

Trains a Universal Transformer with Adaptive Computation Time, and the same block at fixed depths for comparison, on
lists that are made on the fly. OUT/report.md says how steps follow difficulty, how accuracy compares at equal steps,
and how much of the saving in steps is a saving in time. The model that halts is OUT/bundle.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.lists import main

if __name__ == "__main__":
    run(main, __doc__)
