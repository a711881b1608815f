"""Give a model exits: heads after its inner layers, so that easy texts can leave early.

    bertjax exits --model=runs/finetuned/bundle --data.train=train.tsv --data.eval=dev.tsv --out=runs/exits
    bertjax exits --model=demo --method=joint --head=shared_pooler --epochs=3 --out=runs/pabee

Four ways to train them (--method): in two stages, a fine-tuned model frozen and its exits trained on the labels
(DeeBERT); jointly with the model, later exits counting more (PABEE); alternating, the last layer in one step and all
heads in the next (BERxiT); or a frozen model whose last layer teaches the exits, which needs no labels (FastBERT). The
result leaves nobody early: `bertjax calibrate` finds the threshold on text that was held out.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.exits import main

if __name__ == "__main__":
    run(main, __doc__)
