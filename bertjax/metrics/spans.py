"""Scores of predictions that are spans of text: named entities and SQuAD answers.

Both are computed per example and then added up. Each function here returns one row of numbers per example, and
`scores.py` turns their sum into the score. An entity counts only if its first word, last word and type are all correct
(the CoNLL-2003 rule). An answer gets partial credit for the words that it shares with the gold answer (SQuAD v1.1 and
v2.0, whose scripts differ where no word is left).
"""

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from bertjax.errors import UserError
from bertjax.text.tasks import CHUNKS

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def entities(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(type, first word, last word) of every entity in one sentence of IOB1, IOB2, BIOES or BILOU tags.

    `B-` and `S-` (in BILOU `U-`) always start an entity, `S-` and `E-` (`L-`) always end one. Any other continues the
    entity of the word before if that has the same type and does not end there, and starts one otherwise. This rule
    reads all four notations, and treats invalid sequences like conlleval.
    """
    kind, first, before = None, 0, "O"
    for i, tag in enumerate([*tags, "O"]):
        letter, _, new = tag.partition("-")
        if tag != "O" and (letter not in CHUNKS or not new):
            raise UserError(
                f"Tag {tag!r} is not IOB: expected 'O', 'B-TYPE' or 'I-TYPE'; or BIOES, or BILOU.\n"
                "For tags that are no entities use the metric tag_accuracy."
            )
        prefix = CHUNKS.get(letter, "O")
        continues = before in ("B", "I") and prefix in ("I", "E") and new == kind
        if kind is not None and not continues:
            yield kind, first, i - 1
        if not continues:
            kind, first = new or None, i
        before = prefix


def entity_counts(predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> Float[np.ndarray, "n 3"]:
    """Entity counts per sentence: correct, predicted, gold."""
    rows = []
    for i, (predicted, gold) in enumerate(zip(predictions, labels, strict=True)):
        if len(predicted) != len(gold):
            raise UserError(
                f"Sentence {i} has {len(gold)} gold tags but {len(predicted)} predicted ones: expected one per word."
            )
        predicted, gold = set(entities(predicted)), set(entities(gold))
        rows.append((len(predicted & gold), len(predicted), len(gold)))
    return np.array(rows, np.float64)


def tag_counts(predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> Float[np.ndarray, "n 2"]:
    """Per sentence: words with the right tag, and words."""
    pairs = zip(predictions, labels, strict=True)
    return np.array([(sum(a == b for a, b in zip(p, g, strict=True)), len(g)) for p, g in pairs], np.float64)


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces: the form in which SQuAD v1.1 compares answers."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_scores(predictions: Sequence[str], labels: Sequence) -> Float[np.ndarray, "n 2"]:
    """Exact match (0 or 1) and word F1 of every answer, each the best over the gold answers of its question.

    A question's label is a list of gold strings, or SQuAD's `{"text": [...], ...}`. If a question has none, all are
    scored as in SQuAD v2.0: the right answer to it is the empty one, and two answers without words are equal (in v1.1
    they share no word, and their F1 is 0).
    """
    golds_of = [label["text"] if isinstance(label, Mapping) else label for label in labels]
    second = not all(golds_of)
    rows = []
    for answer, golds in zip(map(normalize_answer, predictions), golds_of, strict=True):
        golds = [normalize_answer(gold) for gold in golds]
        if second:
            golds = [gold for gold in golds if gold] or [""]
        f1 = max(_word_f1(answer.split(), gold.split()) for gold in golds)
        rows.append((float(answer in golds), float(second and answer == "" in golds) or f1))
    return np.array(rows, np.float64)


def _word_f1(answer: list[str], gold: list[str]) -> float:
    shared = (Counter(answer) & Counter(gold)).total()
    return 2 * shared / (len(answer) + len(gold)) if shared else 0.0
