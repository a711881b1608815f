"""What a label column means is found out in one way, asked where two make sense, and read so ever after."""

import json
from typing import Any

import pytest

from bertjax.errors import UserError
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Kind, Task


def table(labels: list, **more: Any) -> list[dict]:
    return [{"text": f"text {row}", "label": label, **more} for row, label in enumerate(labels)]


def written(labels: list, folder, name: str):
    """The same column in a file: as a program writes it that knows only texts, or as JSON."""
    path = folder / name
    rows = table(labels)
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        quoted = [str(row["label"]).replace('"', '""') for row in rows]
        path.write_text(
            "text,label\n" + "".join(f'{row["text"]},"{label}"\n' for row, label in zip(rows, quoted, strict=True))
        )
    return path


INDICATORS = {
    "integers": [[0, 1, 0], [1, 0, 1], [0, 0, 0]],
    "floats": [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]],
    "booleans": [[False, True, False], [True, False, True], [False, False, False]],
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("form", INDICATORS)
def test_rows_of_zeros_and_ones_say_which_classes_apply(form, name, tmp_path):
    path = written(INDICATORS[form], tmp_path, name)
    assert infer_task(path) == Task("multi_label", labels=("LABEL_0", "LABEL_1", "LABEL_2"), metric="f1_micro")
    assert load_examples(path, infer_task(path)).labels == [["LABEL_1"], ["LABEL_0", "LABEL_2"], []]
    assert load_examples(path, Task(labels=("joy", "anger", "fear"))).labels == [["anger"], ["joy", "fear"], []]


def test_pairs_of_zero_and_one_are_indicators_but_numbers_of_classes_stay_numbers():
    pairs = table([[0, 1], [1, 0]])
    assert load_examples(pairs).labels == [["LABEL_1"], ["LABEL_0"]]
    assert load_examples(table([[0, 1]]), infer_task(pairs)).labels == [["LABEL_1"]]
    numbers = table([[0, 1], [3], []])
    assert load_examples(numbers).labels == [["0", "1"], ["3"], []]
    assert load_examples(table([[0, 1]]), infer_task(numbers)).labels == [["0", "1"]]
    assert load_examples(table([[1, 0]]), Task(labels=("joy", "anger"))).labels == [["joy"]]


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([[0, 1, 0], [1, 0]], (), 'item 1, column "label": expected 3 times 0 or 1, one for each class, found 2'),
        ([[0, 1, 0], []], (), 'item 1, column "label": expected 3 times 0 or 1, one for each class, found 0'),
        ([[0, 1, 0]], ("joy", "anger"), "item 0, .* expected 2 times 0 or 1, one for each class, found 3"),
        ([[0, 1, 2]], ("joy", "anger"), 'unknown label "0"; expected one of: joy, anger'),
        (["['joy' 'anger']"], (), "begins like a list but cannot be read as one"),
        (["[0 1 0]"], (), "begins like a list but cannot be read as one"),
        ([["joy"], "anger"], (), "item 1, .* expected a list as in the rows before, found 'anger'"),
        ([["O", "B-PER"], ["O"]], (), "these are tags of words: expected a list of words as the text"),
    ],
)
def test_lists_that_mean_nothing_are_named(rows, labels, message):
    with pytest.raises(UserError, match=message):
        load_examples(table(rows), Task(labels=labels))


@pytest.mark.parametrize("cell", ['["joy", "anger"]', "['joy', 'anger']"])
def test_a_cell_that_begins_with_a_bracket_is_a_list_as_json_or_python_writes_it(cell):
    rows = table([cell, "[]"])
    assert infer_task(rows) == Task("multi_label", labels=("anger", "joy"), metric="f1_micro")
    assert load_examples(rows).labels == [["joy", "anger"], []]
    with pytest.raises(UserError, match="expected one class name, found"):
        load_examples(rows, Task("classification"))
    assert load_examples(table(["[NEG]", "[POS]"]), Task("classification")).labels == ["[NEG]", "[POS]"]


@pytest.mark.parametrize(
    "cells",
    [
        ["joy|anger", "joy", "anger"],
        ["joy; fear", "joy", "fear", "joy"],
        ["joy,fear", "fear", "joy"],
        ["a|b", "b|c", "c|a"],
        ["3,5", "3", "5"],
    ],
)
def test_several_names_in_a_cell_are_asked_about_and_then_read_as_said(cells):
    rows = table(cells)
    with pytest.raises(UserError, match=r"(?s)may be .*several labels.*`kind`"):
        infer_task(rows)
    assert infer_task(rows, Task("classification")).labels == tuple(sorted(set(cells)))
    parts = [cell.replace("|", ",").replace(";", ",").replace(" ", "").split(",") for cell in cells]
    task = infer_task(rows, Task("multi_label"))
    assert load_examples(rows, task).labels == parts
    assert set(task.labels) == {name for names in parts for name in names}


def test_a_name_with_a_comma_stays_one_where_another_mark_stands_between_names():
    rows = table(["arts, crafts|music", "music", "arts, crafts"])
    task = infer_task(rows, Task("multi_label"))
    assert task.labels == ("arts, crafts", "music")
    assert load_examples(rows[2:], task).labels == [["arts, crafts"]]
    assert infer_task(table(["Paris, France", "Lyon, France", "Paris, France"])).kind == "classification"


@pytest.mark.parametrize(
    ("cells", "labels", "none"),
    [
        (["neutral", "-", "entailment"], ("entailment", "neutral"), '"-"'),
        ([0, 1, 2, -1], ("0", "1", "2"), '"-1"'),
        ([0, 1, -100], ("0", "1"), '"-100"'),
        (["2", "0", "-1", "1"], ("0", "1", "2"), '"-1"'),
        ([1.0, 3.0, -1.0, 2.0], ("1", "2", "3"), '"-1"'),
        (["good", "bad", "-1"], ("bad", "good"), '"-1"'),
        (["good", "bad", -1, "-"], ("bad", "good"), '"-" or "-1"'),
    ],
)
def test_rows_without_an_agreed_label_are_left_out_and_counted(cells, labels, none):
    rows, task = table(cells), infer_task(table(cells))
    assert task.labels == labels
    for given in (Task(), task):
        examples = load_examples(rows, given)
        kept = [row for row, cell in enumerate(cells) if str(cell) not in ("-", "-1", "-1.0", "-100")]
        assert examples.texts == [f"text {row}" for row in kept]
        assert len(examples.labels or ()) == len(kept)
        left = len(cells) - len(kept)
        assert examples.notes == (f"left out {left} of {len(cells)} whose label is {none}",)


def test_what_looks_like_no_label_may_be_a_class():
    assert infer_task(table(["+", "-", "+"])).labels == ("+", "-")
    assert infer_task(table([-1, 1, 1])).labels == ("-1", "1")
    assert infer_task(table([-2, -1, 0, 1])).labels == ("-2", "-1", "0", "1")
    assert infer_task(table([-1, 0, 1]), Task(labels=("-1", "0", "1"))).labels == ("-1", "0", "1")
    assert load_examples(table([-1, 0, 1]), Task(labels=("0", "1"))).labels == ["0", "1"]
    with pytest.raises(
        UserError, match="-1 may be a class beside 0 and 1, or mean that there is no label\ngive `labels`"
    ):
        infer_task(table([-1, 0, 1]))
    for known, cells in ((("0", "1"), [-1, 1]), (("bad", "good"), [-1, 0, 1]), (("bad", "good"), [-1, 1])):
        with pytest.raises(UserError, match='unknown label "-1"'):
            load_examples(table(cells), Task(labels=known))


def test_left_out_rows_keep_their_places_in_messages_and_are_not_looked_at():
    rows = table(["a", "-", "b", "c"])
    rows[1]["text"] = " "
    with pytest.raises(UserError, match='item 3, column "label": unknown label "c"'):
        load_examples(rows, Task(labels=("a", "b")))
    rows[3]["text"] = ""
    with pytest.raises(UserError, match='item 3, column "text": the text is empty'):
        load_examples(rows)


def test_a_split_without_any_label_is_text_alone():
    examples = load_examples(table([-1, -1]), Task("classification", labels=("bad", "good")))
    assert (examples.labels, len(examples), examples.notes) == (None, 2, ('no row has a label: all are "-1"',))
    with pytest.raises(UserError, match='column "label": no row has a label: all are "-1"'):
        load_examples(table([-1, -1]), labelled=True)


@pytest.mark.parametrize(
    ("train", "later"), [([5, 6], [0, 1]), ([1, 2], [0, 1]), (["1.0", "2.0"], [0, 1]), ([1, 2, 3], [0])]
)
def test_a_number_is_no_position_where_the_classes_are_numbers(train, later):
    task = infer_task(table(train))
    with pytest.raises(UserError, match=r'item 0, column "label": unknown label "0"; expected one of: [15], '):
        load_examples(table(later), task)


def test_positions_of_names_are_read_and_said():
    examples = load_examples(table([1, 0.0, "1"]), Task(labels=("rotten", "fresh")))
    assert examples.labels == ["fresh", "rotten", "fresh"]
    assert examples.notes == ("read class numbers as positions: 0 = rotten, 1 = fresh",)


@pytest.mark.parametrize(
    ("cells", "kind", "labels"),
    [
        ([1.0, 0.0, 1.0], "classification", ("0", "1")),
        (["1.0", "0.0"], "classification", ("0", "1")),
        (["+1", "-1"], "classification", ("-1", "1")),
        (["1", "1.0", 2], "classification", ("1", "2")),
        ([1, 2, 3, 4, 5, 5], "classification", ("1", "2", "3", "4", "5")),
        ([-0.0, 1.0], "classification", ("0", "1")),
        (["0.5", "1.0"], "regression", ()),
        ([float(n) for n in range(21)], "regression", ()),
        ([True, False], "classification", ("False", "True")),
        (["yes", "no"], "classification", ("no", "yes")),
        (["007", "7"], "classification", ("007", "7")),
        ([f"{n}_{m}" for n in range(5) for m in range(5)] * 2, "classification", None),
        (["one", "two"], "classification", ("one", "two")),
        ([" good", "bad "], "classification", ("bad", "good")),
        (["2021-01-01", "2021-01-02"], "classification", ("2021-01-01", "2021-01-02")),
    ],
)
def test_numbers_are_classes_or_scores_by_one_rule_and_by_what_is_said(cells, kind: Kind, labels):
    rows, task = table(cells), infer_task(table(cells))
    assert task.kind == kind
    assert labels in (None, task.labels)
    assert infer_task(rows, task) == task
    assert load_examples(rows, task).labels == load_examples(rows).labels


def test_the_same_numbers_in_another_spelling_are_the_same_classes():
    task = infer_task(table([1.0, 0.0]))
    assert load_examples(table(["1", 0, "+1", "0.0"]), task).labels == ["1", "0", "1", "0"]
    assert load_examples(table(["3.0", "4.5"]), Task("classification", labels=("3.0", "4.5"))).labels == ["3.0", "4.5"]
    assert load_examples(table(["1.0", "0.0"]), Task("regression")).labels == [1.0, 0.0]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["0,5", "1,5"], "'0,5' may be a number or several labels\nwrite numbers with a point"),
        (["1.000,5", "2"], "'1.000,5' may be a number or several labels"),
        ([[0.1, 0.9], [0.8, 0.2]], "item 0, .* or 0 and 1 for each; found probabilities"),
        (["1", "2,5"], "'2,5' may be a number or several labels"),
        ([f"2021-01-{n:02}" for n in range(30)], "30 different labels, most of which occur once, in 30 rows"),
        (list(range(100, 125)), "25 different labels, most of which occur once, in 25 rows\ngive `kind`"),
        (["good", "nan"], r'item 1, .* the label is missing \("nan"\)'),
        (["good", "\ud800"], "item 1, .* expected a name that UTF-8 can encode"),
    ],
)
def test_what_makes_no_sense_as_classes_is_asked_about(cells, message):
    with pytest.raises(UserError, match=message):
        infer_task(table(cells))


def test_f1_is_of_two_classes():
    assert infer_task([{"text": "a", "Quality": n} for n in (1, 2)]).metric == "f1"
    assert infer_task([{"text": "a", "Quality": n} for n in (1, 2, 3)]).metric == "accuracy"
    with pytest.raises(UserError, match="metric f1 needs exactly two classes, found 3; expected f1_macro"):
        infer_task(table(["a", "b", "c"]), Task(metric="f1"))


def tagged(tags: list, **task: Any):
    return load_examples([{"text": ["New", "York", "wins"], "label": tags}], Task(**task))


@pytest.mark.parametrize(
    ("tags", "advice"),
    [
        (["LOC", "LOC", "O"], "for tags that are no entities, such as parts of speech, give `metric` tag_accuracy"),
        (["NNP", "B-LOC", "VBZ"], "for tags that are no entities"),
        ([1, 2, 0], "give the names of the numbers with `labels`, in their order"),
    ],
)
def test_tags_of_other_notations_are_refused_with_what_to_do(tags, advice):
    with pytest.raises(UserError, match=f"(?s)is not an IOB tag; expected O, B-NAME or I-NAME.*\n{advice}"):
        tagged(tags)


@pytest.mark.parametrize(
    "tags", [["B-LOC", "E-LOC", "O"], ["B-LOC", "L-LOC", "O"], ["O", "O", "U-LOC"], ["S-LOC", "O", "O"]]
)
def test_tags_of_bioes_and_bilou_are_entities(tags):
    examples = tagged(tags)
    assert examples.labels == [tags]
    assert examples.task.metric == "entity_f1"


def test_parts_of_speech_are_scored_by_word():
    assert tagged(["NNP", "NNP", "VBZ"]).task.metric == "tag_accuracy"
    assert tagged(["LOC", "LOC", "O"], metric="tag_accuracy").labels == [["LOC", "LOC", "O"]]
    named = tagged([1, 1, 0], labels=("VBZ", "NNP"))
    assert (named.labels, named.task.metric) == ([["NNP", "NNP", "VBZ"]], "tag_accuracy")


def test_integer_tags_are_read_with_their_names():
    assert tagged([1, 2, 0], labels=("O", "B-LOC", "I-LOC")).labels == [["B-LOC", "I-LOC", "O"]]


def test_words_and_tags_may_stand_in_cells_of_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n\"['EU', 'rejects']\",\"['B-ORG', 'O']\"\n")
    examples = load_examples(path)
    assert (examples.words, examples.labels) == ([["EU", "rejects"]], [["B-ORG", "O"]])


def test_every_file_of_a_task_is_read_like_the_first(tmp_path):
    """What was inferred from a file reads that file to the same answers, whatever it holds."""
    columns = [[1.0, 0.0], ["+1", "-1"], [[0, 1, 1], [0, 0, 0]], ["a", "b", "-"], [0.5, 1], [["x"], []], [0, 1, 2, -1]]
    for column in columns:
        for name in ("a.jsonl", "a.csv"):
            path = written(column, tmp_path, name)
            task = infer_task(path)
            assert infer_task(path, task) == task
            assert load_examples(path, task).labels == load_examples(path).labels == load_examples(table(column)).labels
