"""The script that augments: the same file whatever happened on the way, labels kept, mistakes answered."""

import json
from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.jobs import augment
from bertjax.jobs.augment import make_parts, open_source
from bertjax.recipes.augment import Augment, Config
from bertjax.recipes.data import Data
from bertjax.text.sources import load_examples, read_source
from tests.train.test_kinds import classification_of_pairs, qa, tokens
from tests.train.tiny import context, write_model, write_table
from train.augment import main


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("augment")
    write_model(folder / "words", architecture="BertForMaskedLM")
    write_model(folder / "plain")
    write_table(folder / "train.tsv", 20)
    return folder


def config(work: Path, out: str, **fields) -> Config:
    data = fields.pop("data", Data(train=str(work / "train.tsv")))
    return Config(**{"model": str(work / "words"), "data": data, "copies": 3, "out": str(work / out), **fields})


@pytest.fixture
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(augment, "PART", 4)


@pytest.fixture(scope="module")
def straight(work: Path) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "PART", 4)
        main(config(work, "straight"))
    return (work / "straight" / "augmented.jsonl").read_bytes()


def test_copies_follow_their_example_and_keep_its_label(work: Path, straight: bytes):
    before = load_examples(str(work / "train.tsv"))
    lines = [json.loads(line) for line in straight.decode().splitlines()]
    number = -1
    for line in lines:
        if number + 1 < len(before) and line["sentence"] == before.texts[number + 1]:
            number += 1
        assert line["label"] == before.labels[number]  # type: ignore[index]
        assert len(line["sentence"].split()) == len(before.texts[number].split())
    assert number + 1 == len(before)
    assert 2 * len(before) < len(lines) <= 4 * len(before)
    assert load_examples(str(work / "straight" / "augmented.jsonl")).labels is not None


@pytest.mark.usefixtures("small_parts")
def test_a_run_that_was_cut_and_shared_ends_with_the_same_file(work: Path, straight: bytes, monkeypatch):
    cut = config(work, "cut")
    written, write = [], augment.write

    def dies(path: Path, text: str) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, text)

    monkeypatch.setattr(augment, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        main(cut)
    monkeypatch.setattr(augment, "write", write)
    (parts,) = (work / "cut" / "parts").iterdir()
    source = open_source(cut, *read_source(cut.data.train, cut.data.task, "train", labelled=False))
    assert make_parts(source, parts, process_index=1, process_count=2) == 5
    assert sorted(path.name for path in parts.iterdir()) == [f"{number:06d}.jsonl" for number in (0, 1, 3)]
    main(cut)
    assert (work / "cut" / "augmented.jsonl").read_bytes() == straight
    assert not (work / "cut" / "parts").exists()
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        main(config(work, "cut", seed=1))


def test_of_a_pair_one_text_is_changed_at_a_time_and_of_a_stage_the_data_come_back(work: Path):
    data = Data(train=str(classification_of_pairs(work / "pairs")["train"]))
    stage = Augment(substitutes="neighbours", copies=2, probability=0.9)
    after = stage.run(context(str(work / "plain"), data, work / "pairs")).data
    assert after == Data(train=str(work / "pairs" / "augmented.jsonl"), kind="classification", metric="accuracy",
                         labels=("other", "same"))  # fmt: skip
    before, found = load_examples(data.train), load_examples(after.train, after.task)
    assert before.pairs is not None
    assert found.pairs is not None
    originals = set(zip(before.texts, before.pairs, strict=True))
    texts, pairs = set(before.texts), set(before.pairs)
    copies = [pair for pair in zip(found.texts, found.pairs, strict=True) if pair not in originals]
    assert any(text in texts for text, _ in copies)
    assert any(pair in pairs for _, pair in copies)
    assert all(text in texts or pair in pairs for text, pair in copies)
    assert stage.run(context(str(work / "plain"), data, work / "pairs")).data == after


def test_the_numbers_of_a_task_are_tinyberts():
    assert [Augment(copies=task).tried for task in ("cola", "sst2", "mnli")] == [30, 20, 10]


def test_mistakes_are_answered(work: Path):
    with pytest.raises(UserError, match=r"bertjax pretrain --model=.*plain --sentences=none(.|\n)*neighbours"):
        main(config(work, "mistake", model=str(work / "plain")))
    for kind in (tokens, qa):
        with pytest.raises(UserError, match="refer to words of the text"):
            main(config(work, "mistake", data=Data(train=str(kind(work / "odd")["train"]))))
    with pytest.raises(UserError, match="--copies=0: expected at least 1"):
        config(work, "mistake", copies=0)
    with pytest.raises(UserError, match="share of the words"):
        config(work, "mistake", probability=0.0)
