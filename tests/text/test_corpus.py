"""Chunks on disk: everything is in them once, in order; made once; damage is noticed."""

import random
from pathlib import Path

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.storage.cache import cache_dir
from bertjax.text import corpus as module
from bertjax.text.corpus import SHORT_FRACTION, build_corpus, chunks_of
from bertjax.text.documents import read_documents
from bertjax.text.draws import PAIRS, Draws
from tests.text.tiny import WHOLE, tiny_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path: Path) -> str:
    return str(write_documents(tmp_path / "text.txt"))


def write_documents(path: Path, documents: int = 40, seed: int = 0) -> Path:
    """Documents of one to nine sentences of up to eleven words, a few of them longer than any row."""
    rng = random.Random(seed)
    words = [word for word in WHOLE if word.isalpha()]
    blocks = []
    for _ in range(documents):
        lengths = rng.choices((3, 5, 8, 11, 40), (3, 3, 3, 3, 1), k=rng.randint(1, 9))
        blocks.append("\n".join(" ".join(rng.choices(words, k=length)) for length in lengths))
    path.write_text("\n\n".join(blocks) + "\n")
    return path


def test_chunks_hold_every_token_of_every_document_in_order(text: str):
    tokenizer = tiny_tokenizer()
    corpus = build_corpus(text, tokenizer, 20)
    documents = [[row[1:-1] for row in tokenizer.encode(document).ids] for document in read_documents(text)]
    for number, sentences in enumerate(documents):
        chunks = [corpus.chunk(i) for i in np.flatnonzero(corpus.documents == number).tolist()]
        assert np.concatenate([chunk.ids for chunk in chunks]).tolist() == [
            token for sentence in sentences for token in sentence
        ]
        assert all(0 < len(chunk.ids) <= 20 and chunk.ends[-1] == len(chunk.ids) for chunk in chunks)
        ends = np.cumsum([len(sentence) for sentence in sentences])
        before = np.cumsum([0, *(len(chunk.ids) for chunk in chunks)])
        found = {int(start + end) for start, chunk in zip(before[:-1], chunks, strict=True) for end in chunk.ends}
        assert set(ends.tolist()) <= found
    assert corpus.lengths.tolist() == [len(corpus.chunk(i).ids) for i in range(len(corpus))]
    assert corpus.sentences.tolist() == [len(corpus.chunk(i).ends) for i in range(len(corpus))]


def test_a_tenth_of_the_chunks_is_cut_short():
    sentences = [np.zeros(1, np.int32)] * 200_000
    chunks = list(chunks_of(sentences, 50, Draws(1)))
    short = sum(len(chunk.ids) < 50 for chunk in chunks) / len(chunks)
    assert abs(short - SHORT_FRACTION * 48 / 49) < 4 * (SHORT_FRACTION / len(chunks)) ** 0.5


def test_chunks_may_lie_in_many_files(text: str, monkeypatch):
    whole = build_corpus(text, tiny_tokenizer(), 20)
    monkeypatch.setattr(module, "CHUNKS_PER_SHARD", 7)
    monkeypatch.setattr(module, "RULES", 0)
    many = build_corpus(text, tiny_tokenizer(), 20)
    assert len(list(many.folder.glob("*.array_record"))) == -(-len(whole) // 7) > 5
    for number in range(len(whole)):
        np.testing.assert_array_equal(many.chunk(number).ids, whole.chunk(number).ids)


def test_a_corpus_is_made_once_and_anew_where_anything_differs(text: str, monkeypatch):
    first = build_corpus(text, tiny_tokenizer(), 20)
    with monkeypatch.context() as patch:
        patch.setattr(module, "split_documents", None)
        assert build_corpus(text, tiny_tokenizer(), 20).fingerprint == first.fingerprint
    assert build_corpus(text, tiny_tokenizer(), 24).fingerprint != first.fingerprint
    write_documents(Path(text), seed=1)
    assert build_corpus(text, tiny_tokenizer(), 20).fingerprint != first.fingerprint
    assert len(list((cache_dir() / "corpora").iterdir())) == 3


def test_a_stranger_is_never_of_the_same_document_and_all_others_come_up(text: str):
    corpus = build_corpus(text, tiny_tokenizer(), 20)
    own = corpus.documents == corpus.documents[11]
    others = {corpus.chunk(i).ids.tobytes() for i in np.flatnonzero(~own).tolist()}
    drawn = [corpus.of_another_document(11, Draws(0, 0, PAIRS, i)).ids.tobytes() for i in range(40 * len(corpus))]
    assert set(drawn) == others


def test_text_of_which_the_tokenizer_knows_nothing_is_refused(tmp_path: Path):
    (tmp_path / "text.txt").write_text("\u200b\n")
    with pytest.raises(UserError, match=r"text\.txt: the tokenizer finds no token in it"):
        build_corpus(str(tmp_path / "text.txt"), tiny_tokenizer(), 20)


def test_chunks_of_a_long_document_are_those_of_its_rest():
    """Cut from an index: a document of a million sentences must not be copied for each of its chunks."""
    sentences = [np.arange(1 + i % 7, dtype=np.int32) for i in range(500)]
    draws, rest, expected = Draws(0), list(sentences), []
    while rest:
        limit = 2 + draws.below(19) if draws.chance(SHORT_FRACTION) else 20
        count = max(n for n in range(1, len(rest) + 1) if n == 1 or sum(map(len, rest[:n])) <= limit)
        expected.append(np.concatenate(rest[:count]))
        rest = rest[count:]
    found = [chunk.ids for chunk in chunks_of(sentences, 20, Draws(0))]
    assert len(found) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_was_cut_short_while_it_was_written_is_not_there(text: str, monkeypatch):
    def breaks(documents, tokenizer, room):
        yield 0, module.Chunk(np.arange(3, dtype=np.int32), np.array([3], np.int32))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "split_documents", breaks)
        with pytest.raises(KeyboardInterrupt):
            build_corpus(text, tiny_tokenizer(), 20)
    assert list((cache_dir() / "corpora").iterdir()) == []
    assert len(build_corpus(text, tiny_tokenizer(), 20)) > 40


@pytest.mark.parametrize("damage", ["short", "gone", "index"])
def test_damaged_files_are_named_with_what_to_do(text: str, damage: str):
    folder = build_corpus(text, tiny_tokenizer(), 20).folder
    (shard,) = folder.glob("*.array_record")
    if damage == "short":
        shard.write_bytes(shard.read_bytes()[:-5000])
    elif damage == "gone":
        shard.unlink()
    else:
        (folder / "index.npy").write_bytes(b"no")
    with pytest.raises(UserError, match=r"is damaged[\s\S]*Delete it and run the command again"):
        build_corpus(text, tiny_tokenizer(), 20).chunk(0)


def test_a_cache_that_cannot_be_written_is_named(text: str, monkeypatch):
    monkeypatch.setenv("BERTJAX_CACHE", "/proc/nowhere")
    with pytest.raises(UserError, match=r"cannot write /proc/nowhere[\s\S]*BERTJAX_CACHE"):
        build_corpus(text, tiny_tokenizer(), 20)
