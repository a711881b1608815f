"""A task keeps what it is told, and the model's own names decide over the data's order."""

import subprocess
import sys

import pytest

from bertjax.errors import UserError
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import METRICS, Task, align_labels

NAMES = Task("classification", labels=("fresh", "rotten"), metric="accuracy")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "qa", "metric": "accuracy"}, 'unknown metric "accuracy" for kind "qa"; expected one of: squad_f1'),
        ({"metric": "bleu"}, 'unknown metric "bleu"'),
        ({"labels": ("a", "b", "a")}, "contain a name twice: a, b, a"),
    ],
)
def test_an_impossible_task_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        Task(**given)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    command = [sys.executable, "-c", "from bertjax.text.tasks import Task; Task(kind='sentiment')"]
    done = subprocess.run(command, capture_output=True, text=True)  # here, the type checker of the tests is faster
    assert 'unknown kind of task "sentiment"; expected one of: auto, classification, regression' in done.stderr


def test_a_trained_heads_order_wins_over_the_datas():
    for id2label in ({0: "rotten", 1: "fresh"}, {"1": "fresh", "0": "rotten"}):
        assert align_labels(NAMES, id2label, "m").labels == ("rotten", "fresh")


def test_keys_are_ordered_as_numbers():
    names = {str(i): f"c{i}" for i in range(12)}
    task = Task("classification", labels=tuple(sorted(names.values())))
    assert align_labels(task, names, "m").labels == tuple(f"c{i}" for i in range(12))


def test_data_with_a_class_less_than_the_model_is_no_disagreement():
    names = {0: "rotten", 1: "mixed", 2: "fresh"}
    assert align_labels(NAMES, names, "m").labels == ("rotten", "mixed", "fresh")


def test_placeholder_names_are_replaced_only_if_the_count_fits():
    assert align_labels(NAMES, {0: "LABEL_0", 1: "LABEL_1"}, "m") == NAMES
    with pytest.raises(UserError, match="disagree"):
        align_labels(NAMES, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, "m")


def test_numbers_in_the_data_are_positions_of_the_models_names():
    task = Task("classification", labels=("0", "1"))
    aligned = align_labels(task, {0: "negative", 1: "positive"}, "m")
    assert aligned.labels == ("negative", "positive")
    rows = [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]
    assert load_examples(rows, aligned).labels == ["positive", "negative"]
    with pytest.raises(UserError, match="disagree"):
        align_labels(task, {0: "negative", 1: "neutral", 2: "positive"}, "m")


def test_numbers_are_no_positions_where_the_models_names_are_numbers_and_placeholders_are():
    with pytest.raises(UserError, match="disagree"):
        align_labels(Task("classification", labels=("0", "1")), {0: "5", 1: "6"}, "m")
    placeholders = Task("multi_label", labels=("LABEL_0", "LABEL_1"))
    assert align_labels(placeholders, {0: "joy", 1: "anger"}, "m").labels == ("joy", "anger")
    with pytest.raises(UserError, match="disagree"):
        align_labels(placeholders, {0: "joy", 1: "anger", 2: "fear"}, "m")


def test_unlabelled_text_takes_the_models_names():
    task = infer_task(["some text", "more text"])
    assert (task.kind, task.labels) == ("classification", ())
    assert align_labels(task, {0: "rotten", 1: "fresh"}, "m").labels == ("rotten", "fresh")


def test_disagreeing_labels_are_shown_side_by_side():
    with pytest.raises(UserError) as caught:
        align_labels(NAMES, {0: "negative", 1: "positive"}, "models/x")
    message = str(caught.value)
    assert message.splitlines()[:3] == [
        "the labels of the data and of models/x disagree",
        "  data:  fresh, rotten",
        "  model: negative, positive",
    ]
    assert len(message.splitlines()) <= 5


def test_regression_and_answers_need_heads_of_their_size():
    score, answers = Task("regression"), Task("qa")
    assert align_labels(score, {0: "LABEL_0"}, "m") == score
    assert align_labels(answers, {0: "LABEL_0", 1: "LABEL_1"}, "m") == answers
    with pytest.raises(UserError, match="m: kind regression needs a head with 1 output"):
        align_labels(score, {0: "a", 1: "b"}, "m")


def test_a_model_that_gives_numbers_is_not_asked_for_classes():
    with pytest.raises(UserError, match=r"m has one output, but the data has classes: 1, 2\nset kind=regression"):
        align_labels(infer_task([{"text": "a", "label": 1.0}, {"text": "b", "label": 2.0}]), {0: "LABEL_0"}, "m")


def test_every_kind_has_a_default_metric():
    examples = {
        "classification": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
        "regression": [{"text": "a", "label": 0.5}, {"text": "b", "label": 2.0}],
        "multi_label": [{"text": "a", "label": ["x"]}, {"text": "b", "label": ["x", "y"]}],
        "tokens": [{"text": ["a", "b"], "label": ["O", "B-X"]}],
        "qa": [{"question": "a?", "context": "a", "answers": {"text": ["a"], "answer_start": [0]}}],
    }
    for kind, rows in examples.items():
        task = infer_task(rows)
        assert (task.kind, task.metric) == (kind, METRICS[kind][0])


def test_what_is_given_is_never_overruled():
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    given = Task("classification", "text", None, "label", ("0", "1", "2"), "matthews")
    assert infer_task(rows, given) == given
    assert infer_task(rows, Task("regression")).labels == ()
    assert load_examples(rows, Task("regression")).labels == [1.0, 0.0]


def test_open_labels_are_sorted_as_numbers_or_as_words():
    def labels(names):
        return infer_task([{"text": "t", "label": name} for name in names]).labels

    assert labels(["10", "9", "-5"]) == ("-5", "9", "10")
    assert labels([True, False]) == ("False", "True")
    assert labels(["b", "a", "10"]) == ("10", "a", "b")


def test_columns_stay_open_so_that_every_source_may_call_them_otherwise():
    task = infer_task([{"sentence": "a", "label": "x"}, {"sentence": "b", "label": "y"}])
    assert (task.text, task.label) == (None, None)
    assert load_examples([{"text": "c", "gold_label": "y"}], task).labels == ["y"]


def test_reading_text_loads_nothing_heavy():
    heavy = ["jax", "flax", "numpy", "transformers", "grain", "tensorflow_datasets", "pyarrow", "torch"]
    code = f"""
import sys
from bertjax.text.sources import infer_task
infer_task([dict(text="a", label="x"), dict(text="b", label="y")])
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
