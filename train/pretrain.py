"""Pre-train a model on raw text: a vocabulary is learnt, words are hidden and guessed, the order of sentences is told.

    bertjax pretrain --data.train=wiki.txt --data.eval=held-out.txt --vocab_size=8000 --out=runs/pretrained
    bertjax pretrain --model=demo --sentences=none --data.train=reviews.txt --steps=2000 --out=runs/adapted
    bertjax pretrain --config=minilm --data.train=wiki --out=runs/minilm

With a student in the config file, the model given is its teacher: raw text then is enough to make a small model that
can be fine-tuned to anything, as DistilBERT, MiniLM, MobileBERT and TinyBERT's first stage do.

Documents are parted by blank lines (in tables and TFDS, each row is one). Vocabulary and pieces are stored once, in
$BERTJAX_CACHE. The finished model is OUT/bundle, which `bertjax finetune --model=OUT/bundle` takes over. At the end
stands how well it guesses the hidden words of --data.eval, beside the entropy of these words' own frequencies, which is
what a model that ignores the context can reach. The same command again continues where it was cut.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.pretrain import main

if __name__ == "__main__":
    run(main, __doc__)
