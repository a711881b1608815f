"""A question and its context as rows of limited length: overlapping windows over the context, each after the question.

The scheme of BERT's SQuAD runs (Devlin et al., 2019): each window is a row `[CLS] question [SEP] part [SEP]` (RoBERTa
has two [SEP] between the texts), and the label of a row that does not hold the whole answer is [CLS]. Windows overlap,
so that no answer is lost at their edges.
"""

from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Int32

from bertjax.errors import UserError
from bertjax.text.examples import Examples
from bertjax.text.tokenizer import Tokenizer

_NOWHERE = (-1, -1)


def context_windows(
    examples: Examples, chunk: slice, tokenizer: Tokenizer, max_length: int, stride: int
) -> dict[str, np.ndarray]:
    """Rows of these examples as flat arrays, named like the fields of `Encoded`. A question is cut to half a row."""
    if examples.pairs is None:
        raise UserError(
            f"{examples.source}: question answering needs a context for every question, as in SQuAD's JSON."
        )
    if max_length < 8:
        raise UserError(f"max_length is {max_length}; expected at least 8, for a question and some of its context.")
    tokens = tokenizer.encode(examples.texts[chunk], examples.pairs[chunk], None)
    assert tokens.sequence_ids is not None
    assert tokens.offsets is not None
    answers = [None] * len(tokens.ids) if examples.labels is None else examples.labels[chunk]
    special = len(tokenizer.encode([""], [""], spans=False).ids[0])  # the first, the last, and those between the texts
    ids, type_ids, spans, labels, example, truncated = [], [], [], [], [], 0
    for number, row in enumerate(tokens.ids):
        split = tokens.sequence_ids[number].index(1)  # where the context begins
        end = split - (special - 2)
        question = row[1:end][: (max_length - special) // 2]
        prefix = [row[0], *question, *row[end:split]]
        truncated += len(prefix) < split
        context = row[split:-1]
        covered = np.asarray(tokens.offsets[number][split:-1], np.int32).reshape(-1, 2)
        room = max_length - len(prefix) - 1
        first, last = answer_tokens(answers[number], covered)
        for start in window_starts(len(context), room, stride):
            part = context[start : start + room]
            ids.append([*prefix, *part, row[-1]])
            first_type, second_type = tokens.type_ids[number][0], tokens.type_ids[number][split]
            type_ids.append([first_type] * len(prefix) + [second_type] * (len(part) + 1))
            spans += [[_NOWHERE] * len(prefix), covered[start : start + room], [_NOWHERE]]
            inside = start <= first and last < start + len(part)
            shift = len(prefix) - start
            labels.append((first + shift, last + shift) if inside else (0, 0))
            example.append(number + chunk.start)
    rows = {
        **ragged(ids, type_ids),
        "example": np.array(example, np.int32),
        "spans": np.concatenate(spans).astype(np.int32),
        "truncated": np.array([truncated]),
    }
    return rows if examples.labels is None else rows | {"labels": np.array(labels, np.int32)}


def window_starts(count: int, room: int, stride: int) -> range:
    """Where windows of `room` tokens begin that cover `count` tokens; at most half a window apart."""
    step = max(1, min(stride, room // 2))
    return range(0, max(count - room, 0) + step, step)


def answer_tokens(answer: dict[str, list] | None, covered: Int32[np.ndarray, "n 2"]) -> tuple[int, int]:
    """First and last token of the first accepted answer; (-1, -1), which is in no window, if there is none."""
    if not answer or not answer["text"]:
        return _NOWHERE
    start = answer["answer_start"][0]
    first = int(np.searchsorted(covered[:, 1], start, side="right"))
    last = int(np.searchsorted(covered[:, 0], start + len(answer["text"][0]), side="left")) - 1
    return (first, last) if first <= last else _NOWHERE


def ragged(ids: list[list[int]], type_ids: list[list[int]]) -> dict[str, np.ndarray]:
    """Rows of tokens as flat arrays with the length of each row."""

    def flat(rows: Any) -> Int32[np.ndarray, "n"]:
        return np.fromiter(chain.from_iterable(rows), np.int32)

    return {"ids": flat(ids), "type_ids": flat(type_ids), "lengths": np.array([len(row) for row in ids], np.int64)}
