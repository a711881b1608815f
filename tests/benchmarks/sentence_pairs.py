"""A task on pairs of sentences from plain text: does the second follow the first, or is it from somewhere else?

    python -m tests.benchmarks.sentence_pairs TEXT[.gz] pairs.tsv [--count=2000]

Every other pair of neighbours stays as it is, in the others the second becomes any sentence of the text. Both classes
are as frequent, and each sentence is as often first; a bag of words knows next to nothing of it.
"""

import argparse
import random
from itertools import pairwise
from pathlib import Path

from bertjax.text.documents import read_documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, help="so many pairs, from all over; all where nothing is said")
    arguments = parser.parse_args()
    draw = random.Random(0)
    documents = [[" ".join(sentence.split()) for sentence in each] for each in read_documents(arguments.text)]
    every = [sentence for sentences in documents for sentence in sentences]
    pairs = [pair for sentences in documents for pair in pairwise(sentences)]
    lines = [
        "\t".join((first, second, "next") if number % 2 else (first, draw.choice(every), "other"))
        for number, (first, second) in enumerate(pairs)
    ]
    draw.shuffle(lines)
    lines = lines[: arguments.count]
    arguments.file.write_text("\n".join(["sentence1\tsentence2\tlabel", *lines]) + "\n", encoding="utf-8", newline="")
    print(f"{len(lines)} pairs in {arguments.file}")


if __name__ == "__main__":
    main()
