"""From the logits of tokens back to predictions: tags of words, and answer spans as text of the context.

Logits are given per row of `Encoded`, in its order. Each may be longer than its row: what is beyond is padding and is
ignored. So both one padded array and a list of rows padded to their buckets can be given.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bertjax.text.encode import Encoded
from bertjax.text.examples import Examples


def tags_or_answers(logits: Sequence[np.ndarray], encoded: Encoded, examples: Examples) -> list:
    """The predictions of a model whose logits are [tokens, ...] per row: the tags of every example's words, or the
    answer to every question."""
    if encoded.task.kind == "tokens":
        return predicted_tags(logits, encoded, examples)
    starts, ends = ([row[:, side] for row in logits] for side in (0, 1))
    # If all labelled questions have an answer (SQuAD 1.1), none is not one of the predictions.
    promised = examples.labels is not None and all(label["text"] for label in examples.labels)
    threshold = np.inf if promised else encoded.task.no_answer_threshold
    return [one.text if one.empty <= threshold else "" for one in best_answers(starts, ends, encoded, examples)]


def predicted_tags(logits: Sequence[np.ndarray] | np.ndarray, encoded: Encoded, examples: Examples) -> list[list[str]]:
    """The predicted tag of every word, from the logits of its first token ([tokens, tags] per row).

    A word that has no token (cut off by the limit, or made of control characters only) gets "O", since the model never
    read it.
    """
    assert encoded.words is not None
    assert examples.words is not None
    names = encoded.task.labels
    outside = "O" if "O" in names else names[0]
    tags = []
    for row, words in enumerate(examples.words):
        owner = encoded.words[encoded.offsets[row] : encoded.offsets[row + 1]]
        best = np.asarray(logits[row])[: len(owner)].argmax(axis=-1)
        by_word = {word: names[tag] for word, tag in zip(owner.tolist(), best.tolist(), strict=True) if word >= 0}
        tags.append([by_word.get(word, outside) for word in range(len(words))])
    return tags


class Answer(NamedTuple):
    """The best span for a question."""

    text: str
    empty: float
    """How much higher [CLS] scores than the span; in the window where it scores lowest, as in BERT's SQuAD script."""


def best_answers(
    start_logits: Sequence[np.ndarray] | np.ndarray,
    end_logits: Sequence[np.ndarray] | np.ndarray,
    encoded: Encoded,
    examples: Examples,
    *,
    max_answer_length: int = 30,
) -> list[Answer]:
    """The best span for every question, at most `max_answer_length` tokens long, over all windows of its context.

    The score of a span is the sum of its start and end logit; [CLS] as a span says that there is no answer.
    """
    assert encoded.spans is not None
    assert examples.pairs is not None
    best = [(-np.inf, "")] * len(examples)
    empty = np.full(len(examples), np.inf)
    for row, example in enumerate(encoded.example.tolist()):
        spans = encoded.spans[encoded.offsets[row] : encoded.offsets[row + 1]]
        start, end = np.asarray(start_logits[row]), np.asarray(end_logits[row])
        empty[example] = min(empty[example], start[0] + end[0])
        inside = np.flatnonzero(spans[:, 0] >= 0)
        if len(inside):
            score, first, last = best_span(start[inside], end[inside], max_answer_length)
            if score > best[example][0]:
                context = examples.pairs[example]
                text = context[spans[inside[first], 0] : spans[inside[last], 1]]
                best[example] = score, text.strip()  # byte-level BPE may count the space before a word as its part
    return [Answer(text, float(none - score)) for (score, text), none in zip(best, empty, strict=True)]


def best_threshold(
    empty: Float[np.ndarray, "n"], as_answer: Float[np.ndarray, "n"], as_none: Float[np.ndarray, "n"]
) -> float:
    """The threshold of `Answer.empty` with the highest mean score, given what each question scores with its span and
    with no answer. Half-way between two questions; of equally good ones the highest, with the most answers. A question
    whose context has no token has no span, and does not count."""
    order = np.argsort(-empty, kind="stable")
    order = order[np.isfinite(empty[order])]
    ranked = empty[order]
    gains = np.concatenate([[0.0], np.cumsum((as_none - as_answer)[order])])  # of the first n without an answer
    ends = np.concatenate([[ranked[0] + 1.0], ranked, [ranked[-1] - 1.0]])
    possible = np.concatenate([[True], ranked[:-1] != ranked[1:], [True]])
    best = int(np.flatnonzero(possible)[gains[possible].argmax()])
    return float((ends[best] + ends[best + 1]) / 2)


def best_span(
    start: Float[np.ndarray, "tokens"], end: Float[np.ndarray, "tokens"], longest: int
) -> tuple[float, int, int]:
    """The highest `start[i] + end[j]` with i <= j < i + longest, and its i and j; the first of equal ones."""
    beyond = np.full(longest - 1, -np.inf, end.dtype)
    ends = np.lib.stride_tricks.sliding_window_view(np.concatenate([end, beyond]), longest)
    scores = start[:, None] + ends
    first, further = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores[first, further]), int(first), int(first + further)
