"""Measure finished models side by side: score with its interval, size, memory, arithmetic, time. Nothing is trained.

    bertjax evaluate --model=runs/a/bundle --against runs/b/bundle --data.eval=dev.tsv --out=runs/compared

The first model is the baseline that the others are compared with. Exported folders may stand among those, and are
measured in their own runtime. With --data.train a bag of words, fitted on that, stands beside them. The report is
OUT/report.md.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.evaluate import main

if __name__ == "__main__":
    run(main, __doc__, trains=False)
