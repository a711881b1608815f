"""From what a model says of tokens back to what was asked: words' tags, and answers in the context's own characters.

Logits are given per row of `Encoded`, in its order, each at least as long as the row; what stands beyond is padding
and ignored. So both an array padded to one length and a list of rows padded to their buckets will do.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bertjax.text.encode import Encoded
from bertjax.text.examples import Examples


def tags_or_answers(logits: Sequence[np.ndarray], encoded: Encoded, examples: Examples) -> list:
    """What a model says where its logits are [tokens, ...] for each row: the tags of every example's words, or the
    answer to every question."""
    if encoded.task.kind == "tokens":
        return predicted_tags(logits, encoded, examples)
    starts, ends = ([row[:, side] for row in logits] for side in (0, 1))
    # Where answers are known, each question has one; elsewhere a model that learned to say so may find none.
    return best_answers(starts, ends, encoded, examples, may_be_empty=examples.labels is None)


def predicted_tags(logits: Sequence[np.ndarray] | np.ndarray, encoded: Encoded, examples: Examples) -> list[list[str]]:
    """The best tag of every word, decided at its first token ([tokens, tags] per row).

    A word without a token of its own (cut off by the limit, or of control characters only) is "O": no model saw it.
    """
    assert encoded.words is not None
    assert examples.words is not None
    names = encoded.task.labels
    outside = "O" if "O" in names else names[0]
    tags = []
    for row, words in enumerate(examples.words):
        owner = encoded.words[encoded.offsets[row] : encoded.offsets[row + 1]]
        best = np.asarray(logits[row])[: len(owner)].argmax(axis=-1)
        found = {word: names[tag] for word, tag in zip(owner.tolist(), best.tolist(), strict=True) if word >= 0}
        tags.append([found.get(word, outside) for word in range(len(words))])
    return tags


def best_answers(
    start_logits: Sequence[np.ndarray] | np.ndarray,
    end_logits: Sequence[np.ndarray] | np.ndarray,
    encoded: Encoded,
    examples: Examples,
    *,
    max_answer_length: int = 30,
    may_be_empty: bool = False,
) -> list[str]:
    """For every question the best span, at most `max_answer_length` tokens long, over all windows on its context.

    A span's score is the sum of its start and end logit. With `may_be_empty` (data whose questions may have no answer)
    the answer is "" where every window scores its [CLS] higher than the best span; ties go to the span.
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
                best[example] = score, context[spans[inside[first], 0] : spans[inside[last], 1]]
    return ["" if may_be_empty and none > score else text for (score, text), none in zip(best, empty, strict=True)]


def best_span(
    start: Float[np.ndarray, "tokens"], end: Float[np.ndarray, "tokens"], longest: int
) -> tuple[float, int, int]:
    """The highest `start[i] + end[j]` with i <= j < i + longest, and its i and j; the first of equals."""
    beyond = np.full(longest - 1, -np.inf, end.dtype)
    ends = np.lib.stride_tricks.sliding_window_view(np.concatenate([end, beyond]), longest)
    scores = start[:, None] + ends
    first, further = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores[first, further]), int(first), int(first + further)
