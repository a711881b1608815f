import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from bertjax.errors import UserError
from bertjax.storage.cache import cache_dir
from bertjax.text.wordpiece import SPECIAL, wordpiece
from tests.train.tiny import ROOT


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path: Path) -> str:
    """Words made of syllables, so that many tokens are equally frequent."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.choice((1, 2, 3)))) for _ in range(3000)]
    (tmp_path / "text.txt").write_text(" ".join(words).replace("ba", "Ba ,"))
    return str(tmp_path / "text.txt")


def test_a_vocabulary_has_the_size_asked_for_and_spells_the_text(text: str, tmp_path: Path):
    tokenizer = wordpiece(text, 200)
    assert tokenizer.vocab_size == 200
    assert [tokenizer.vocabulary[name] for name in SPECIAL] == [0, 1, 2, 3, 4]
    ids = tokenizer.encode([Path(text).read_text()]).ids[0]
    assert tokenizer.unk_id not in ids
    tokenizer.save(tmp_path / "folder")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert theirs("Bamaki , daba")["input_ids"] == tokenizer.encode(["Bamaki , daba"]).ids[0]


def test_the_same_text_gives_the_same_vocabulary_in_every_process(text: str):
    code = f"from bertjax.text.wordpiece import learn; print(sorted(learn({text!r}, 150, None).items()))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=dict(os.environ)
        ).stdout
        for _ in range(3)
    }
    assert len(said) == 1


def test_a_vocabulary_is_learnt_once(text: str, monkeypatch):
    first = wordpiece(text, 150)
    monkeypatch.setattr("bertjax.text.wordpiece.learn", None)
    assert wordpiece(text, 150).fingerprint == first.fingerprint


def test_sizes_that_the_text_cannot_fill_are_refused_and_leave_nothing(text: str):
    with pytest.raises(UserError, match=r"--vocab_size=90000: .* gives only \d+ tokens"):
        wordpiece(text, 90_000)
    with pytest.raises(UserError, match="--vocab_size=20: the text has 18 different letters"):
        wordpiece(text, 20)
    assert not any((cache_dir() / "vocabularies").iterdir())
