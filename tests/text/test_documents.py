import gzip
import json
from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.text.documents import read_documents, sentences_of, source_digest


def test_blank_lines_part_documents_and_lines_and_full_stops_part_sentences(tmp_path: Path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"One here. Two there!\nThree\r\n \t\r\n\n\n= Four =\n\nFive? Six\n")
    expected = [["One here.", "Two there!", "Three"], ["= Four ="], ["Five?", "Six"]]
    assert list(read_documents(str(file))) == expected
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "text.txt.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert list(read_documents(str(tmp_path / "packed"))) == expected


def test_a_text_without_blank_lines_is_one_document(tmp_path: Path):
    (tmp_path / "text.txt").write_text("a\nb\nc")
    assert list(read_documents(str(tmp_path / "text.txt"))) == [["a", "b", "c"]]


def test_small_letters_and_numbers_go_on_after_a_full_stop():
    assert sentences_of("H. americanus grows 0 @.@ 7 m . It is blue .") == [
        "H. americanus grows 0 @.@ 7 m .",
        "It is blue .",
    ]


def test_every_row_of_a_table_is_a_document(tmp_path: Path):
    (tmp_path / "table.tsv").write_text("title\tbody\nx\tOne. Two.\ny\tThree\n")
    assert list(read_documents(str(tmp_path / "table.tsv"), "body")) == [["One.", "Two."], ["Three"]]


def test_both_texts_of_a_row_are_read_and_no_label_is(tmp_path: Path):
    (tmp_path / "pairs.tsv").write_text("premise\thypothesis\tlabel\nOne. Two.\tThree.\t\nFour.\tFive.\tx\n")
    assert list(read_documents(str(tmp_path / "pairs.tsv"))) == [["One.", "Two.", "Three."], ["Four.", "Five."]]
    asked = [{"question": "Who?", "id": "1", "answers": [{"text": "nobody", "answer_start": 99}]}]
    article = {"title": "x", "paragraphs": [{"context": "A cat. It sat.", "qas": asked}]}
    (tmp_path / "squad.json").write_text(json.dumps({"version": "1.1", "data": [article]}))
    assert list(read_documents(str(tmp_path / "squad.json"))) == [["Who?", "A cat.", "It sat."]]
    assert list(read_documents(str(tmp_path / "squad.json"), "context")) == [["A cat.", "It sat."]]
    (tmp_path / "words.conll").write_text("A\tO\ncat\tB\n\nIt\tO\n")
    assert list(read_documents(str(tmp_path / "words.conll"))) == [["A cat"], ["It"]]


def test_a_folder_inside_is_passed_over_and_a_link_to_nowhere_is_named(tmp_path: Path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.txt").mkdir()
    assert list(read_documents(str(tmp_path))) == [["first"]]
    (tmp_path / "c.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(UserError, match=r"c\.txt: no such file"):
        source_digest(str(tmp_path))


def test_files_of_a_folder_are_read_by_name_and_their_digest_is_of_what_they_hold(tmp_path: Path):
    for name, text in {"b.txt": "second", "a.txt": "first", "notes.md": "no"}.items():
        (tmp_path / name).write_text(text)
    assert list(read_documents(str(tmp_path))) == [["first"], ["second"]]
    before = source_digest(str(tmp_path))
    (tmp_path / "a.txt").rename(tmp_path / "A.txt")
    assert source_digest(str(tmp_path)) == before
    (tmp_path / "b.txt").write_text("changed")
    assert source_digest(str(tmp_path)) != before


def test_a_source_without_text_is_refused(tmp_path: Path):
    (tmp_path / "blank.txt").write_text("\n \n\n")
    with pytest.raises(UserError, match="no text in it"):
        list(read_documents(str(tmp_path / "blank.txt")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no text files in this folder"):
        list(read_documents(str(tmp_path / "empty")))
    with pytest.raises(UserError, match="no such file"):
        list(read_documents(str(tmp_path / "nowhere.txt")))
