"""Find the threshold at which a model with exits may be left early, and show what that gains.

    bertjax calibrate --model=runs/exits/bundle --held_out=held-out.tsv --data.eval=dev.tsv --out=runs/early

The threshold is the boldest whose score on --held_out is at most --bound below that of the whole model, interval
included, for which one point takes 368 texts at the very least. That text must have trained nothing, and is not what is
reported: the table of OUT/report.md is of --data.eval. OUT/bundle holds the threshold, and leaves early wherever it is
loaded; where the text can promise none, the table still shows what each would have cost.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.calibrate import main

if __name__ == "__main__":
    run(main, __doc__, trains=False)
