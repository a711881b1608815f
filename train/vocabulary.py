"""Leave out of a model's vocabulary what the texts at hand never use: a smaller folder, and the same answers.

    bertjax vocabulary --model=runs/tuned/bundle --data.train=demo --data.eval=demo --out=runs/fewer-words

Nothing is trained. Texts whose pieces all stay are answered exactly as before; other words are spelled with the pieces
that are left, which costs a shallow model more than a deep one: look at the score. The result is OUT/bundle.

The head stays as it is. Of a model that answers nothing about texts yet (pre-trained, or without a head) there is no
score, and the texts may be raw: whatever `bertjax pretrain` reads.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.vocabulary import main

if __name__ == "__main__":
    run(main, __doc__, trains=False)
