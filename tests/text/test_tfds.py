"""TFDS data sets come in through array_record files, and nowhere does TensorFlow take part."""

import importlib.util
import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bertjax.errors import UserError
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Task

SENTENCES = [f"sentence {i}, ünïcödé 東京 😀" for i in range(40)]
VERDICTS = ["bad", "good", "mixed"]


class TinyVerdicts(tfds.core.GeneratorBasedBuilder):
    """A data set of our own, as a user would write one."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["good", "bad", "mixed"])}
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(30)), "test": self._generate_examples(range(30, 40))}

    def _generate_examples(self, rows):
        for i in rows:
            yield i, {"text": SENTENCES[i], "label": VERDICTS[i % 3]}


class TinySpans(tfds.core.GeneratorBasedBuilder):
    """Lists of words, of classes, of answers, and a score."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        answers = tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": tfds.features.Scalar(np.int32)})
        features = {
            "words": tfds.features.Sequence(tfds.features.Text()),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-X", "I-X"])),
            "question": tfds.features.Text(),
            "context": tfds.features.Text(),
            "answers": answers,
            "score": tfds.features.Scalar(np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, tags in enumerate([["B-X", "I-X"], ["O", "O"]]):
            yield (
                i,
                {
                    "words": ["one", "two"],
                    "tags": tags,
                    "question": "Which?",
                    "context": "one two",
                    "answers": [{"text": "two", "answer_start": 4}],
                    "score": 0.5 + i,
                },
            )


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


def prepared(builder_class, data_dir: Path, file_format: str = "array_record"):
    builder = builder_class(data_dir=str(data_dir), file_format=file_format)
    builder.download_and_prepare()
    return builder


def test_tensorflow_is_not_installed():
    assert importlib.util.find_spec("tensorflow") is None


def test_a_builder_of_ours_makes_a_round_trip(data_dir):
    prepared(TinyVerdicts, data_dir)
    train, test = (load_examples(f"tfds:tiny_verdicts/{split}") for split in ("train", "test"))
    assert (len(train), len(test)) == (30, 10)
    assert train.labels is not None
    assert {*train.texts, *test.texts} == set(SENTENCES)
    for text, label in zip(train.texts, train.labels, strict=True):
        assert label == VERDICTS[SENTENCES.index(text) % 3]
    assert infer_task("tfds:tiny_verdicts/train").labels == ("good", "bad", "mixed")  # the data set's own order


def test_versions_and_slices_of_splits_can_be_named(data_dir):
    prepared(TinyVerdicts, data_dir)
    whole = load_examples("tfds:tiny_verdicts/train").texts
    assert load_examples("tfds:tiny_verdicts:1.0.0/train[:10%]").texts == whole[:3]
    assert load_examples("tfds:tiny_verdicts/train[25:]").texts == whole[25:]


def test_a_prepared_data_set_is_read_without_its_builder(data_dir):
    prepared(TinyVerdicts, data_dir)
    code = (
        "from bertjax.text.sources import load_examples; print(load_examples('tfds:tiny_verdicts/train').fingerprint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == load_examples("tfds:tiny_verdicts/train").fingerprint


def test_lists_answers_and_scores_come_as_python_has_them(data_dir):
    prepared(TinySpans, data_dir)
    source = "tfds:tiny_spans/train"
    tokens = load_examples(source, Task(text="words", label="tags"))
    assert sorted(zip(tokens.texts, map(str, tokens.labels or []), strict=True)) == [
        ("one two", "['B-X', 'I-X']"),
        ("one two", "['O', 'O']"),
    ]
    assert infer_task(source, Task(text="words", label="tags")).labels == ("O", "B-X", "I-X")
    answers = load_examples(source, Task("qa", label="answers"))
    assert answers.labels == [{"text": ["two"], "answer_start": [4]}] * 2
    assert sorted(load_examples(source, Task("regression", text="context", label="score")).labels or []) == [0.5, 1.5]


SST2 = {
    "train.tsv": 'sentence\tlabel\na "charming journey \t1\nbleak\t0\n',
    "dev.tsv": "sentence\tlabel\nslow\t0\nallows us to hope\t1\n",
    "test.tsv": "index\tsentence\n0\tuneasy mishmash\n",
}


@pytest.fixture
def sst2_archive(data_dir, monkeypatch):
    """An archive laid out like GLUE's, which passes for the one in TFDS's checksum table."""
    from tensorflow_datasets.core.download import checksums

    archive = data_dir / "downloads" / "manual" / "SST-2.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in SST2.items():
            file.writestr(f"SST-2/{name}", content)
    expected = next(info for url, info in checksums.get_all_url_infos().items() if url.endswith("glue/data/SST-2.zip"))
    monkeypatch.setattr(checksums, "compute_url_info", lambda path: expected)
    return archive


def test_sst2_is_read_from_an_archive_once_the_command_given_has_unpacked_it(sst2_archive):
    with pytest.raises(UserError) as caught:
        load_examples("tfds:glue/sst2/train")
    first, command = str(caught.value).splitlines()
    assert first.startswith("tfds:glue/sst2/train: TFDS needs TensorFlow to unpack SST-2.zip; run this instead")
    program, *arguments = shlex.split(command)
    assert program == "python"
    subprocess.run([sys.executable, *arguments], check=True)

    train = load_examples("tfds:glue/sst2/train")
    assert sorted(zip(train.texts, train.labels or [], strict=True)) == [
        ('a "charming journey ', "positive"),
        ("bleak", "negative"),
    ]
    assert infer_task("tfds:glue/sst2/validation").labels == ("negative", "positive")
    test = load_examples("tfds:glue/sst2/test")
    assert (test.texts, test.labels) == (["uneasy mishmash"], None)


def test_what_is_not_there_is_asked_for_with_one_command(data_dir, capfd):
    with pytest.raises(UserError) as caught:
        load_examples("tfds:glue/sst2/validation")
    first, command = str(caught.value).splitlines()
    assert first == "tfds:glue/sst2/validation: not downloaded yet; run this command, then try again:"
    archive, folder = data_dir / "downloads/manual/SST-2.zip", data_dir / "downloads/extracted/ZIP.SST-2.zip"
    assert command.strip() == (
        f"curl -fL --create-dirs -o {archive} https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"
        f" && python -m zipfile -e {archive} {folder}"
    )
    assert capfd.readouterr() == ("", "")


def test_a_wrong_archive_is_refused_by_its_checksum(data_dir):
    archive = data_dir / "downloads" / "manual" / "SST-2.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"(?s)cannot prepare it.*wrong checksum.*tfds build glue/sst2 --file_format"):
        load_examples("tfds:glue/sst2/train")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tfds:tiny_verdicts", "expected tfds:NAME/SPLIT, e.g. tfds:glue/sst2/train"),
        ("tfds:tiny_verdicts/valid", 'no split "valid" in tiny_verdicts/1.0.0; expected one of: t'),
        ("tfds:tiny_verdicts/train[x:]", r'cannot read the split "train\[x:\]"'),
        ("tfds:no_such_set/train", 'TFDS knows no data set "no_such_set", and there is none in '),
        ("tfds:glue/sst2", "sst2 is a configuration of glue; add the split, e.g. tfds:glue/sst2/train"),
    ],
)
def test_bad_names_are_named(source, message, data_dir):
    prepared(TinyVerdicts, data_dir)
    with pytest.raises(UserError, match=message):
        load_examples(source)


def declare_rows(builder, count: int) -> None:
    """Make the data set's description say that train holds so many rows."""
    path = Path(builder.data_dir) / "dataset_info.json"
    info = json.loads(path.read_text())
    train = next(split for split in info["splits"] if split["name"] == "train")
    train["shardLengths"] = [str(count)]
    path.write_text(json.dumps(info))


def test_rows_that_are_missing_are_missed(data_dir):
    declare_rows(prepared(TinyVerdicts, data_dir, "parquet"), 31)  # TFDS 4.9.10 itself makes such files
    with pytest.raises(UserError, match=r"31 rows expected, 30 found; delete .*tiny_verdicts/1\.0\.0 and try again"):
        load_examples("tfds:tiny_verdicts/train")


def test_files_that_are_too_short_are_refused(data_dir):
    declare_rows(prepared(TinyVerdicts, data_dir), 31)
    with pytest.raises(UserError, match=r"tfds:tiny_verdicts/train: damaged .*; delete .* and try again"):
        load_examples("tfds:tiny_verdicts/train")


def test_files_that_need_tensorflow_are_refused(data_dir):
    folder = Path(prepared(TinyVerdicts, data_dir).data_dir)
    for file in folder.glob("*array_record*"):
        file.rename(folder / file.name.replace("array_record", "tfrecord"))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord").replace("ARRAY_RECORD", "TFRECORD"))
    with pytest.raises(UserError, match="as tfrecord, which needs TensorFlow\ndelete that folder and prepare it again"):
        load_examples("tfds:tiny_verdicts/train")


def test_undecodable_bytes_are_named_with_row_and_column(data_dir, monkeypatch):
    monkeypatch.setattr(
        TinyVerdicts, "_generate_examples", lambda self, rows: ((i, {"text": b"caf\xe9", "label": 0}) for i in rows)
    )
    prepared(TinyVerdicts, data_dir)
    with pytest.raises(UserError, match=r'tiny_verdicts/train, row 0, column "text": expected Unicode text'):
        load_examples("tfds:tiny_verdicts/train", Task(labels=("bad", "good")))


def test_rows_whose_annotators_disagreed_are_left_out_and_counted(data_dir, monkeypatch):
    monkeypatch.setattr(
        TinyVerdicts,
        "_generate_examples",
        lambda self, rows: ((i, {"text": f"text {i}", "label": -1 if i % 4 == 3 else i % 4}) for i in rows),
    )
    prepared(TinyVerdicts, data_dir)
    examples = load_examples("tfds:tiny_verdicts/train")
    assert len(examples) == 23
    assert set(examples.labels or ()) == {"good", "bad", "mixed"}
    assert examples.notes == ('left out 7 of 30 whose label is "-"',)
