"""`predict` answers every line of its input, and nothing but lines."""

import io
import json
import sys
from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.recipes.predict import Config
from tests.train.test_evaluate import write_headed
from train.predict import main

LINES = ["the film\u2028a story", "very\x0cdull", "", "fine\x85scenes", "  ", "warm music"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_headed(tmp_path_factory.mktemp("predict"))


def answered(model: str, content: bytes, folder: Path, name: str = "lines.txt") -> list[dict]:
    (folder / name).write_bytes(content)
    main(Config(model, str(folder / name), str(folder / "answers.jsonl")))
    text = (folder / "answers.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]  # no reader sees more lines than there were


@pytest.mark.parametrize(("end", "last"), [("\n", "\n"), ("\n", ""), ("\r\n", "\r\n"), ("\r", "\r")])
def test_there_is_an_answer_for_every_line_and_none_for_a_blank_one(end, last, model, tmp_path):
    answers = answered(model, (end.join(LINES) + last).encode(), tmp_path)
    assert [answer["text"] for answer in answers] == LINES
    assert [answer["label"] in ("bad", "good") for answer in answers] == [bool(line.strip()) for line in LINES]
    assert [set(answer) for answer in answers if answer["label"] is None] == [{"text", "label"}] * 2


def test_standard_input_is_read_as_a_file_is(model, tmp_path, monkeypatch, capsys):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        content = "\n".join([*LINES, ""]).encode(encoding)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        main(Config(model))
        printed = capsys.readouterr().out.splitlines()
        assert [json.loads(line) for line in printed] == answered(model, content, tmp_path)


def test_a_line_that_is_no_text_is_named_by_its_place_in_the_file(model, tmp_path):
    with pytest.raises(UserError, match="line 3 has 3 columns; expected one text per line"):
        answered(model, b"a film\n\na\tb\tc\n", tmp_path)
    with pytest.raises(UserError, match=r"lines\.txt, line 2, byte 4: 0xe9 cannot be decoded; expected UTF-8 text"):
        answered(model, b"a film\ncaf\xe9\n", tmp_path)
    for content, message in ((b"\n \n", "holds no text"), (b"", "the file is empty")):
        with pytest.raises(UserError, match=message):
            answered(model, content, tmp_path)
