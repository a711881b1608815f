"""A new WordPiece vocabulary, trained on the text that a model will be trained on.

The `tokenizers` library merges the most frequent neighbours until there are enough tokens. By itself (0.23.3) it
numbers the single letters within words in the order of a hash table, which differs between processes, and breaks ties
by these numbers: the same text gives a different vocabulary every time. Given all letters beforehand, in order, its
result is deterministic.
"""

import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bertjax.errors import UserError
from bertjax.storage.cache import cached_folder
from bertjax.text.documents import read_documents, source_digest
from bertjax.text.tokenizer import Tokenizer
from bertjax.text.tokenizer_files import ROLES, bert_normalizer, from_vocabulary

SPECIAL = tuple(
    names[0] for names in (ROLES[r] for r in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"))
)
LETTERS = 1000
"""The most frequent characters are kept as tokens; words with others become [UNK], as in BERT's own vocabulary."""
RULES = 1
"""Version of the training; increase it whenever the same text would give another vocabulary."""


def wordpiece(source: str, size: int, column: str | None = None) -> Tokenizer:
    """A lower-casing WordPiece tokenizer of `size` tokens trained on a source of text, or the cached one.

    Raises:
      UserError: The text has too few different tokens, or too many letters for `size`.
    """

    def make(folder: Path) -> None:
        Tokenizer.wrap(from_vocabulary(learn(source, size, column), {})).save(folder)

    return Tokenizer.from_folder(cached_folder("vocabularies", [RULES, source_digest(source, column), size], make))


def learn(source: str, size: int, column: str | None) -> dict[str, int]:
    """Tokens with their ids, special tokens first."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    def sentences() -> Iterator[str]:
        return (sentence for document in read_documents(source, column) for sentence in document)

    normalizer, counts = bert_normalizer({}), Counter()
    for sentence in sentences():
        counts.update(normalizer.normalize_str(sentence))
    frequent = sorted((letter for letter in counts if not letter.isspace()), key=lambda x: (-counts[x], x))[:LETTERS]
    letters = sorted(frequent)
    within = [f"##{letter}" for letter in letters if letter not in string.punctuation]
    known = [*SPECIAL, *letters, *within]
    if size < len(known):
        raise UserError(
            f"--vocab_size={size}: the text has {len(letters)} different letters, which alone take {len(known)} "
            "tokens; give a larger size."
        )
    trained = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL[1]))
    trained.normalizer, trained.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, special_tokens=known, limit_alphabet=LETTERS
    )
    trained.train_from_iterator(sentences(), trainer)
    vocabulary = trained.get_vocab()
    if len(vocabulary) < size:
        raise UserError(
            f"--vocab_size={size}: {source} gives only {len(vocabulary)} tokens that occur at least twice; "
            "give at most this size, or more text."
        )
    return vocabulary
