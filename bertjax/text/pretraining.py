"""Batches for pre-training: chunks of text as segment pairs with masked tokens.

A row is a pure function of (seed, epoch, chunk), and the order of the rows one of (seed, epoch). So batch k is computed
without the batches before it, and any number of processes that start anywhere see the same batches. Rows of similar
length share a batch (`batches`), or several short ones share a row (`packing`). A model computes vocabulary logits only
at the masked positions, about an eighth of all. The lists of these positions are padded to one length, with weight 0.
Every field with targets has a field of weights; padding and filler have weight 0 in each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from bertjax.errors import UserError
from bertjax.text.batches import Batch, BatchIterator, EpochPlan, epoch_plan, shortest_first
from bertjax.text.buckets import bucket_of, length_buckets
from bertjax.text.corpus import Corpus
from bertjax.text.draws import MASKS, PAIRS, Draws
from bertjax.text.masking import Masked, Masking, MaskVocabulary, mask, mask_vocabulary
from bertjax.text.packing import pack_rows, packed_plan
from bertjax.text.pairs import Sentences, make_pair, row_lengths
from bertjax.text.tokenizer import Tokenizer


class PretrainingRow(NamedTuple):
    """One chunk as model input. `label` is that of the pair, None where there is no sentence objective."""

    masked: Masked
    type_ids: Int32[np.ndarray, "l"]
    label: int | None


@dataclass(frozen=True, eq=False)
class PretrainingRows:
    """A corpus as rows of at most `max_length` tokens, drawn anew in every epoch.

    Raises:
      UserError: The corpus has no example of one of the objectives.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    max_length: int
    sentences: Sentences
    masking: Masking
    seed: int

    def __post_init__(self) -> None:
        corpus, single = self.corpus, self.corpus.sentences == 1
        if self.sentences != "none" and single.all():
            raise UserError(
                f"--sentences={self.sentences}: no chunk of the text has two sentences, which this objective needs. "
                "Use --sentences=none, a larger --data.max_length, or text with several sentences per document."
            )
        from_others = self.sentences == "next" or (self.sentences == "order-official" and single.any())
        if from_others and corpus.documents[0] == corpus.documents[-1]:
            raise UserError(
                f"--sentences={self.sentences}: the text is one document, but some second segments must come from "
                "another one. Separate documents by blank lines, or use --sentences=order."
            )
        if self.masking.rate and not any(len(self.row(i, 0).masked.positions) for i in range(len(corpus))):
            raise UserError("the text is so short that no token is masked; give more text.")

    @cached_property
    def vocabulary(self) -> MaskVocabulary:
        return mask_vocabulary(self.tokenizer, self.masking)

    @cached_property
    def lengths(self) -> Int32[np.ndarray, "chunks"]:
        """The most tokens that each row can have."""
        return row_lengths(self.corpus.lengths, self.corpus.sentences, self.sentences, self.max_length)

    @property
    def identity(self) -> dict:
        """What the content of the rows depends on."""
        objective = {"sentences": self.sentences, "unit": self.masking.unit, "rate": self.masking.rate}
        return {"corpus": self.corpus.fingerprint, "seed": self.seed, "max_length": self.max_length, **objective}

    def row(self, number: int, epoch: int) -> PretrainingRow:
        """Row `number` as it is in this epoch."""

        def other_chunk(draws: Draws):
            return self.corpus.of_another_document(number, draws)

        draws = Draws(self.seed, epoch, PAIRS, number)
        pair = make_pair(self.corpus.chunk(number), self.sentences, self.max_length - 3, draws, other_chunk)
        cls, sep = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        second = [] if pair.second is None else [pair.second, sep]
        ids = np.concatenate([cls, pair.first, sep, *second]).astype(np.int32)
        types = (np.arange(len(ids)) >= len(pair.first) + 2).astype(np.int32)
        return PretrainingRow(
            mask(ids, self.vocabulary, self.masking, Draws(self.seed, epoch, MASKS, number)), types, pair.label
        )


def pretraining_batches(
    rows: PretrainingRows, batch_size: int, *, packed: bool = False, **position: Any
) -> BatchIterator:
    """Endless batches for training. Every chunk appears once per epoch; filler completes the last batch of each.

    With S = 1, or if packed the most chunks in any row: cls_positions, example_ids, sentence_labels and
    sentence_weights are [b, S]; weights are [b], or if packed [b, S]; masked_positions, masked_labels and
    masked_weights are [b, places]. Packed batches also have segment_ids and position_ids.
    """
    count, places = len(rows.corpus), None
    if packed:
        slots = pack_rows(rows.lengths, rows.max_length)
        longest = np.sort(rows.lengths)[::-1]
        count, places = len(slots), most_places(np.where(slots >= 0, longest[slots], 0), rows.masking)
    else:
        edges = bucket_of(rows.lengths, length_buckets(rows.lengths, rows.max_length))

    def plan(epoch: int) -> EpochPlan:
        if packed:
            return packed_plan(rows.lengths, slots, rows.max_length, batch_size, rows.seed, epoch)
        planned = epoch_plan(edges, batch_size, rows.seed, epoch)
        return planned._replace(rows=planned.rows[..., None])

    return BatchIterator(
        plan,
        lambda chosen, length, epoch: lay_out(rows, chosen, epoch, length, places),
        {**rows.identity, "batch_size": batch_size, "packed": packed},
        batch_size=batch_size,
        steps_per_epoch=-(-count // batch_size),
        **position,
    )


def held_out_batches(rows: PretrainingRows, batch_size: int) -> Iterator[Batch]:
    """Every row of epoch 0 once, as `eval_batches`."""
    buckets = length_buckets(rows.lengths, rows.max_length)
    for chosen, length in shortest_first(rows.lengths, buckets, batch_size):
        yield lay_out(rows, chosen[:, None], 0, length, None)


def most_places(lengths: Int[np.ndarray, "bins s"], masking: Masking) -> int:
    """The most tokens that can be masked in any packed row; the same in every epoch, as the lengths are."""
    real = np.maximum(lengths - 2, 0)
    return int(((masking.rate * real).astype(np.int64) + (lengths > 0)).sum(axis=1).max())


def lay_out(
    rows: PretrainingRows, chosen: Int[np.ndarray, "b s"], epoch: int, length: int, places: int | None
) -> Batch:
    """These rows (-1 = none) as the arrays of a batch; `places` is given for packed rows, whose chunks are
    concatenated."""
    shape, slots = chosen.shape, {"input_ids": rows.tokenizer.pad_id, "attention_mask": 0, "token_type_ids": 0}
    if places is not None:
        slots |= {"segment_ids": 0, "position_ids": 0}
    else:
        places = rows.masking.most(length)
    batch = {name: np.full((shape[0], length), value, np.int32) for name, value in slots.items()}
    batch |= {name: np.zeros((shape[0], places), np.int32) for name in ("masked_positions", "masked_labels")}
    batch |= {name: np.zeros(shape, np.int32) for name in ("cls_positions", "sentence_labels")}
    batch |= {
        "masked_weights": np.zeros((shape[0], places), np.float32),
        "sentence_weights": np.zeros(shape, np.float32),
    }
    for line, numbers in enumerate(chosen):
        used = masked = 0
        for slot in np.flatnonzero(numbers >= 0):
            row = rows.row(int(numbers[slot]), epoch)
            here = slice(used, used + len(row.type_ids))
            batch["input_ids"][line, here], batch["attention_mask"][line, here] = row.masked.ids, 1
            batch["token_type_ids"][line, here] = row.type_ids
            if "segment_ids" in batch:
                batch["segment_ids"][line, here] = slot + 1
                batch["position_ids"][line, here] = np.arange(len(row.type_ids))
            there = slice(masked, masked + len(row.masked.positions))
            batch["masked_positions"][line, there] = row.masked.positions + used
            batch["masked_labels"][line, there], batch["masked_weights"][line, there] = row.masked.labels, 1
            batch["cls_positions"][line, slot] = used
            if row.label is not None:
                batch["sentence_labels"][line, slot], batch["sentence_weights"][line, slot] = row.label, 1
            used, masked = here.stop, there.stop
    weights = (chosen >= 0).astype(np.float32)
    weights = weights if "segment_ids" in batch else weights[:, 0]
    return {**batch, "weights": weights, "example_ids": chosen.astype(np.int32)}
