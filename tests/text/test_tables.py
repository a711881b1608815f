"""Every layout that GLUE publishes, and every kind of table, gives the texts and labels that stand in it."""

import bz2
import csv
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from bertjax.errors import UserError
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Task

# name: (file as published, texts, pairs, labels, task labels, metric)
GLUE = {
    "SST-2": (
        'sentence\tlabel\nhide new secretions \t0\na "bad smart-aleck movie \t1\n',
        ["hide new secretions ", 'a "bad smart-aleck movie '],
        None,
        ["0", "1"],
        ("0", "1"),
        "accuracy",
    ),
    "SST-2 test": ("index\tsentence\n0\tuneasy mishmash .\n", ["uneasy mishmash ."], None, None, (), "accuracy"),
    "MRPC": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
        '1\t702876\t702977\tHe accused his brother , whom he called " the witness "\tReferring to him as only " the\r\n'
        "0\t10\t11\tThey had it\tTab had not\r\n",
        ['He accused his brother , whom he called " the witness "', "They had it"],
        ['Referring to him as only " the', "Tab had not"],
        ["1", "0"],
        ("0", "1"),
        "f1",
    ),
    "CoLA": (
        "gj04\t1\t\tOur friends won't buy this.\ngj04\t0\t*\tThey drank the pub.\n",
        ["Our friends won't buy this.", "They drank the pub."],
        None,
        ["1", "0"],
        ("0", "1"),
        "matthews",
    ),
    "RTE": (
        "index\tsentence1\tsentence2\tlabel\n"
        "0\tNo weapons.\tWeapons.\tnot_entailment\n1\tA place.\tA site.\tentailment\n",
        ["No weapons.", "A place."],
        ["Weapons.", "A site."],
        ["not_entailment", "entailment"],
        ("entailment", "not_entailment"),
        "accuracy",
    ),
    "QNLI": (
        "index\tquestion\tsentence\tlabel\n0\tWhen?\tThen.\tentailment\n1\tWho?\tHere.\tnot_entailment\n",
        ["When?", "Who?"],
        ["Then.", "Here."],
        ["entailment", "not_entailment"],
        ("entailment", "not_entailment"),
        "accuracy",
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        '1\t2\t3\tHow old?\tWhat age?\t1\n2\t4\t5\tWhy "so?\tWhere?\t0\n',
        ["How old?", 'Why "so?'],
        ["What age?", "Where?"],
        ["1", "0"],
        ("0", "1"),
        "f1",
    ),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\t1\t1e\tfiction\t( x )\tOne.\tTwo.\tneutral\tentailment\n"
        "1\t2\t2n\tfiction\t( y )\tRed.\tBlue.\tentailment\tcontradiction\n",
        ["One.", "Red."],
        ["Two.", "Blue."],
        ["entailment", "contradiction"],
        ("contradiction", "entailment"),
        "accuracy",
    ),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tmain\tMSRvid\t2012\t0001\tnone\tnone\tA plane.\tAn air plane.\t5.000\n"
        "1\tmain\tMSRvid\t2012\t0004\tnone\tnone\tA man.\tA dog.\t0.25\n",
        ["A plane.", "A man."],
        ["An air plane.", "A dog."],
        [5.0, 0.25],
        (),
        "pearson",
    ),
}


@pytest.mark.parametrize("name", GLUE)
def test_glue_files_are_read_as_published(name, tmp_path):
    content, texts, pairs, labels, names, metric = GLUE[name]
    path = tmp_path / "train.tsv"
    path.write_bytes(content.encode())
    examples, task = load_examples(str(path)), infer_task(path)
    assert (examples.texts, examples.pairs, examples.labels) == (texts, pairs, labels)
    assert (task.labels, task.metric) == (names, metric)
    assert task.kind == ("regression" if name == "STS-B" else "classification")


def test_rows_of_qqp_that_are_torn_apart_are_left_out_and_counted(tmp_path):
    path = tmp_path / "train.tsv"
    content = GLUE["QQP"][0] + "3\t6\t7\tA question torn\napart?\tYes?\t1\n4\t8\t9\t\tEmpty?\t0\n"
    path.write_text(content)
    with pytest.warns(UserWarning, match=r"train\.tsv: left out 3 broken rows of 5"):
        assert load_examples(path).texts == ["How old?", 'Why "so?']


ROWS = [
    {"review": "plain", "verdict": "yes"},
    {"review": 'with "quotes", commas', "verdict": "no"},
    {"review": "ünïcödé 東京 😀", "verdict": "yes"},
    {"review": "two\nlines", "verdict": "no"},
]
TASK = Task(text="review", label="verdict")


def write(path: Path, rows: list[dict]) -> None:
    names = list(rows[0])
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = ["\t".join(names), *("\t".join(str(row[name]) for name in names) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_named_columns_of_every_format_give_the_same_examples(ending, tmp_path):
    rows = [row for row in ROWS if ending != ".tsv" or "\n" not in row["review"]]
    path = tmp_path / f"data{ending}"
    write(path, rows)
    examples = load_examples(path, TASK)
    in_memory = load_examples(rows, TASK)
    assert examples.texts == [row["review"] for row in rows]
    assert examples.labels == [row["verdict"] for row in rows]
    assert examples.fingerprint == in_memory.fingerprint
    assert examples.source == str(path)


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_packed_files_are_read_too(kind, ending, pack, tmp_path):
    plain = tmp_path / f"data{kind}"
    write(plain, ROWS)
    packed = tmp_path / f"data{kind}{ending}"
    packed.write_bytes(pack(plain.read_bytes()))
    assert load_examples(packed, TASK).fingerprint == load_examples(plain, TASK).fingerprint


def test_a_byte_order_mark_and_windows_line_ends_leave_no_trace(tmp_path):
    for ending, separator in ((".tsv", "\t"), (".csv", ",")):
        path = tmp_path / f"data{ending}"
        path.write_bytes(f"\ufefftext{separator}label\r\none{separator}a\r\ntwo{separator}b\r\n".encode())
        examples = load_examples(path)
        assert (examples.texts, examples.labels) == (["one", "two"], ["a", "b"])


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_a_file_without_a_label_column_is_unlabelled_text(ending, tmp_path):
    path = tmp_path / f"data{ending}"
    write(path, [{"text": "one"}, {"text": "two"}])
    examples = load_examples(path)
    assert (examples.texts, examples.labels) == (["one", "two"], None)


def test_plain_lines_are_unlabelled_text(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text('first\tline\n\n  \n"second" line\n')
    examples = load_examples(path)
    assert (examples.texts, examples.labels) == (["first\tline", '"second" line'], None)


def test_typed_cells_mean_the_same_as_written_ones(tmp_path):
    written = [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]
    typed = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    for ending in (".jsonl", ".parquet"):
        path = tmp_path / f"data{ending}"
        write(path, typed)
        assert load_examples(path).labels == load_examples(written).labels == ["1", "0"]
    floats = [{"text": "a", "label": 1.0}, {"text": "b", "label": 0.0}]  # a table with gaps, for classification
    assert load_examples(floats, Task("classification")).labels == ["1", "0"]
    assert infer_task(floats).kind == "classification"


def test_several_labels_are_lists_or_separated_by_commas(tmp_path):
    path = tmp_path / "data.jsonl"
    write(path, [{"text": "a", "labels": ["joy", "fear"]}, {"text": "b", "labels": []}])
    assert infer_task(path) == Task("multi_label", labels=("fear", "joy"), metric="f1_micro")
    assert load_examples(path).labels == [["joy", "fear"], []]
    path = tmp_path / "data.tsv"
    path.write_text("text\tlabel\na\t3, 5\nb\t\nc\t10\n")
    task = infer_task(path, Task("multi_label"))
    assert task.labels == ("3", "5", "10")
    assert load_examples(path, task).labels == [["3", "5"], [], ["10"]]


def test_lists_of_texts_and_of_dicts_are_sources():
    assert load_examples(["one", "two"]).texts == ["one", "two"]
    pairs = load_examples([{"premise": "a", "hypothesis": "b"}])
    assert (pairs.texts, pairs.pairs, pairs.labels) == (["a"], ["b"], None)


def test_columns_given_by_name_win_over_the_usual_ones(tmp_path):
    rows = [
        {"text": "usual", "title": "given", "label": "x", "stars": "1"},
        {"text": "u", "title": "g", "label": "y", "stars": "2"},
    ]
    examples = load_examples(rows, Task(text="title", text_pair="text", label="stars"))
    assert (examples.texts, examples.pairs, examples.labels) == (["given", "g"], ["usual", "u"], ["1", "2"])
    assert load_examples(rows, Task(text="title")).pairs is None


def test_the_fingerprint_follows_the_content_alone(tmp_path):
    base = load_examples([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    renamed = load_examples([{"sentence": "a", "score": "x"}, {"sentence": "b", "score": "y"}])
    other = load_examples([{"text": "a", "label": "y"}, {"text": "b", "label": "x"}])
    assert base.fingerprint == renamed.fingerprint != other.fingerprint


def test_a_byte_order_mark_says_how_a_file_is_written(tmp_path):
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        for name, mark in (("a.tsv", "\t"), ("a.csv", ",")):
            (tmp_path / name).write_bytes(f"text{mark}label\r\nköstlich{mark}a\r\nfad{mark}b\r\n".encode(encoding))
            examples = load_examples(tmp_path / name)
            assert (examples.texts, examples.labels) == (["köstlich", "fad"], ["a", "b"])
    big = "\ufefftext\tlabel\na\tx\nb\ty\n".encode("utf-16be")
    (tmp_path / "big.tsv").write_bytes(big)
    assert load_examples(tmp_path / "big.tsv").labels == ["x", "y"]


def test_utf_16_may_come_without_its_mark(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.tsv").write_bytes("text\tlabel\nköstlich\ta\nfad 好\tb\n".encode(encoding))
        assert load_examples(tmp_path / "a.tsv").texts == ["köstlich", "fad 好"]


@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_comments_of_tables_are_left_out_and_texts_that_begin_with_a_hash_are_not(name, mark, tmp_path):
    lines = ["# made by hand", f"# see{mark}also{mark}that", "text|label", "#film|good", "# half-way", "dull|bad"]
    (tmp_path / name).write_text("\n".join(lines).replace("|", mark) + "\n")
    examples = load_examples(tmp_path / name)
    assert (examples.texts, examples.labels) == (["#film", "dull"], ["good", "bad"])
    (tmp_path / name).write_text(f"#text{mark}label\n#film{mark}good\ndull{mark}bad\n")
    assert load_examples(tmp_path / name, Task(text="#text")).texts == ["#film", "dull"]
    (tmp_path / name).write_text("text\n#film\ndull\n")
    assert load_examples(tmp_path / name).texts == ["#film", "dull"]


def test_lines_may_end_as_on_old_macs(tmp_path):
    contents = {
        "a.tsv": "text\tlabel\rone\ta\rtwo\tb\r",
        "a.csv": 'text,label\rone,a\r"two",b\r',
        "a.jsonl": '{"text": "one", "label": "a"}\r{"text": "two", "label": "b"}\r',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode())
        examples = load_examples(tmp_path / name)
        assert (examples.texts, examples.labels) == (["one", "two"], ["a", "b"])
    (tmp_path / "a.txt").write_bytes(b"one\rtwo\r")
    assert load_examples(tmp_path / "a.txt").texts == ["one", "two"]


def test_blank_lines_at_the_end_are_no_rows_and_an_empty_last_cell_is(tmp_path):
    path = tmp_path / "a.tsv"
    for end in ("", "\n", "\n\n", "\r\n\r\n", "\n\r\n\n"):
        path.write_bytes(f"text\tlabel\none\ta\ntwo\tb{end}".encode())
        assert load_examples(path).labels == ["a", "b"]
    path.write_text("text\tlabel\none\tx\ntwo\t\n\n")
    assert load_examples(path, Task("multi_label")).labels == [["x"], []]


def test_an_ending_may_be_in_capitals(tmp_path):
    for name in ("A.TSV", "A.Tsv.GZ"):
        content = b"text\tlabel\none\ta\ntwo\tb\n"
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
        assert load_examples(tmp_path / name).labels == ["a", "b"]


def test_a_cell_may_be_a_long_text_and_the_limit_of_others_stays(tmp_path):
    long, limit = "word " * 40_000, csv.field_size_limit()
    path = tmp_path / "a.csv"
    path.write_text(f'text,label\n"{long}",a\nshort,b\n')
    assert load_examples(path).texts == [long, "short"]
    assert csv.field_size_limit() == limit


def test_rare_separators_are_characters_of_the_text(tmp_path):
    texts = ["one\u2028line", "form\x0cfeed", "next\x85line", "vertical\x0btab", "group\x1dmark"]
    for name in ("a.tsv", "a.csv", "a.jsonl", "a.txt"):
        path = tmp_path / name
        path.write_text("\n".join(texts) + "\n") if name == "a.txt" else write(path, [{"text": text} for text in texts])
        assert load_examples(path).texts == texts


def test_what_pandas_writes_is_read_as_meant(tmp_path):
    """`to_csv` with its index, a column of classes with a gap elsewhere, quotes, and `to_json(orient="records")`."""
    path = tmp_path / "a.csv"
    path.write_text(',text,label,other\n0,"He said ""no""",1.0,\n1,fine,0.0,3\n')
    examples = load_examples(path)
    assert (examples.texts, examples.labels) == (['He said "no"', "fine"], ["1", "0"])
    path = tmp_path / "a.jsonl"
    path.write_text('[{"text": "a", "label": 1}]\n')
    with pytest.raises(UserError, match="line 1: expected a JSON object, found"):
        load_examples(path)
