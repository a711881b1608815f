"""Augment training text: copies of every example in which some words are replaced, with the same label.

    bertjax augment --model=demo --substitutes=neighbours --data.train=demo --copies=5 --out=runs/augment
    bertjax distill --model=runs/finetune/bundle --data.train=runs/augment/augmented.jsonl --out=runs/student
    bertjax augment --model=hf:bert-base-uncased --data.train=train.tsv --copies=sst2

New words come from a masked language model, or are near ones in its embedding table. The result is OUT/augmented.jsonl,
each example followed by its copies. It is made in parts of 128 examples, and the same command again continues after the
last finished part. The copies of an example depend on the text, the settings and the seed alone, not on interruptions
or the number of processes.
"""

from bertjax.engine.command_line import run
from bertjax.jobs.augment import augment
from bertjax.jobs.data import Text
from bertjax.recipes.augment import Config


def main(config: Config) -> None:
    augment(config, Text.of(config.data))


if __name__ == "__main__":
    run(main, __doc__)
