"""Distil a model into a smaller one: a fine-tuned teacher and text in, a student out.

    bertjax distill --model=runs/finetuned/bundle --data.train=demo --data.eval=demo --out=runs/distilled
    bertjax distill --model=runs/finetuned/bundle --data.train=unlabelled.txt --epochs=5 --out=runs/mine

The student learns from what the teacher says of each text (--losses), so text without labels is enough. The teacher's
outputs are computed once and stored in OUT/teacher (in the cache folder where OUT is in a bucket); a loss that needs
more than they hold gets a live teacher. Several teachers (--teachers) are averaged.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.distill import main

if __name__ == "__main__":
    run(main, __doc__)
