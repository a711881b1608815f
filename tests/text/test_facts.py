"""What was read is said as it is: classes, texts that were cut, unknown words, texts that stand in two files."""

import pytest

from bertjax.text.encode import encode_examples
from bertjax.text.examples import Examples
from bertjax.text.facts import Facts, facts_of, overlap, paragraph, shared_texts, task_summary
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Task
from tests.text.tiny import tiny_tokenizer


def rows(labels: list, name: str = "label") -> list[dict]:
    return [{"sentence": f"the cat {row}", name: label} for row, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (rows(["b", "a", "b", "-"]), 'classification of "sentence" by "label": 2 classes, a 1, b 2; score: accuracy'),
        (rows([1.0, 0.0], "score"), 'classification of "sentence" by "score": 2 classes, 0 1, 1 1; score: accuracy'),
        (
            rows([0, 1, 1], "Quality"),
            'classification of "sentence" by "Quality": 2 classes, 0 1, 1 2; score: f1 of "1"',
        ),
        (rows([0.5, 3, -1]), 'regression of "sentence" by "label": numbers from -1 to 3; score: pearson'),
        (
            rows([[0, 1, 0], [1, 1, 0]]),
            'multi_label of "sentence" by "label": 3 classes, LABEL_0 1, LABEL_1 2, LABEL_2 0; score: f1_micro',
        ),
        ([{"sentence": "the cat"}], '"sentence" without labels'),
        (
            [{"text": ["the", "cat"], "label": ["O", "B-X"]}],
            'tokens of "text" by "label": 2 classes, B-X 1, O 1; score: entity_f1',
        ),
        (
            [{"question": "who?", "context": "a cat", "answers": {"text": ["cat"], "answer_start": [2]}}],
            'qa of "question" and "context" by "answers": a span of the context; score: squad_f1',
        ),
        (
            rows([f"c{n:02}" for n in range(10)] * 2),
            f'classification of "sentence" by "label": 10 classes, {", ".join(f"c{n:02} 2" for n in range(8))}, '
            "and 2 more; score: accuracy",
        ),
    ],
)
def test_a_sentence_says_what_the_columns_were_taken_for(table, said):
    assert task_summary(load_examples(table)) == said


def test_texts_that_were_cut_and_words_that_are_not_known_are_counted():
    examples = Examples(["the cat sat on the mat", "a dog", "zebra zebra"], notes=("left out 2 of 5",))
    encoded = encode_examples(examples, Task("classification"), tiny_tokenizer(), 6)
    facts = facts_of("train", "a.tsv", examples, encoded, 6)
    assert (facts.examples, facts.cut, facts.unknown, facts.seen) == (3, 1, 3 / 8, None)
    assert facts.sentence() == "train: a.tsv, 3 texts, 1 cut at 6 tokens, 37.5 % [UNK]; left out 2 of 5"


def test_texts_are_the_same_but_for_blanks_around_them_and_pairs_as_a_whole():
    some, others = Examples(["a cat", " b\n", "C", "b"]), Examples(["b", "c", "d "])
    assert (shared_texts(some, others), shared_texts(others, some)) == (2, 1)
    pairs = Examples(["a", "a"], ["x", "y"])
    assert shared_texts(pairs, Examples(["a ", "b"], [" x", "y"])) == 1
    assert shared_texts(pairs, Examples(["a"])) == 0


def test_a_report_says_which_texts_are_not_new_or_that_all_are():
    train = Facts("train", "a.tsv", 4, 0, 8, 0.0)
    seen = Facts("eval", "b.tsv", 3, 1, 8, 0.02, ("left out 1 of 4",), seen=2)
    assert overlap((train, seen)) == (
        "2 of 3 texts of b.tsv (eval) are also in a.tsv (train): the score is not measured on unseen text"
    )
    assert paragraph((train, seen)) == (
        "Train: a.tsv, 4 texts, none cut at 8 tokens, 0.0 % [UNK]. Eval: b.tsv, 3 texts, 1 cut at 8 tokens, 2.0 % "
        "[UNK]; left out 1 of 4. 2 of 3 texts of b.tsv (eval) are also in a.tsv (train): the score is not measured on "
        "unseen text."
    )
    apart = Facts("eval", "b.tsv", 3, 0, 8, 0.0, seen=0)
    assert overlap((train, apart)) == overlap((apart,)) == paragraph(()) == ""
    assert paragraph((train, apart)).endswith("No text of b.tsv is in the text that was trained or chosen on.")


def test_examples_say_how_they_were_read():
    task = infer_task(rows(["a", "b"]))
    assert load_examples(rows(["a", "b"]), task).task == Task(
        "classification", text="sentence", label="label", labels=("a", "b"), metric="accuracy"
    )
