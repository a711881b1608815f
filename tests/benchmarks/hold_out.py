"""Holds sentences out of a GLUE training file, to choose a recipe on them and leave the dev set unread.

    python -m tests.benchmarks.hold_out TRAIN.tsv[.gz] FOLDER [--count=3000]

SST-2's training set is full of phrases cut from one another. Whatever is part of a held-out sentence, or contains one,
leaves the training file too; otherwise the choice would favour what is learnt by heart.
"""

import argparse
import gzip
import random
from pathlib import Path

LONG = 10  # words: a sentence and not a phrase


def spans(words: list[str], shortest: int) -> set[str]:
    """Every run of at least `shortest` words."""
    return {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + shortest, len(words) + 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=3000)
    arguments = parser.parse_args()
    opened = gzip.open if arguments.train.endswith(".gz") else open
    with opened(arguments.train, "rt", encoding="utf-8", newline="") as file:
        header, *lines = file.read().splitlines()
    words = [line.split("\t")[0].split() for line in lines]
    long = [i for i, row in enumerate(words) if len(row) >= LONG]
    chosen = set(random.Random(0).sample(long, arguments.count))
    parts = set().union(*(spans(words[i], 1) for i in chosen))
    whole = {" ".join(words[i]) for i in chosen}
    left = [i for i, row in enumerate(words) if " ".join(row) not in parts and not spans(row, LONG) & whole]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.tsv", left), ("held_out.tsv", sorted(chosen))):
        text = "\n".join([header, *(lines[i] for i in rows)]) + "\n"
        (arguments.folder / name).write_text(text, encoding="utf-8", newline="")
        print(f"{len(rows)} rows in {arguments.folder / name}")


if __name__ == "__main__":
    main()
