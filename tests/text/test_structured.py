"""CoNLL columns and SQuAD's JSON become examples like any other table."""

import gzip
import json

import pytest

from bertjax.errors import UserError
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Task

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O
. . O O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Warsaw",
            "paragraphs": [
                {
                    "context": "Warsaw lies on the Vistula. It is big.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Which river?",
                            "answers": [
                                {"text": "Vistula", "answer_start": 19},
                                {"text": "the Vistula", "answer_start": 15},
                            ],
                        },
                        {"id": "q2", "question": "How big?", "answers": [{"text": "big", "answer_start": 34}]},
                    ],
                }
            ],
        }
    ],
}


def squad_file(tmp_path, change=None):
    content = json.loads(json.dumps(SQUAD))
    if change:
        change(content["data"][0]["paragraphs"][0])
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("name", ["train.conll", "train.conll.gz", "train.txt"])
def test_conll_columns_become_words_and_tags(name, separator, tmp_path):
    path = tmp_path / name
    content = CONLL.replace(" ", separator).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    examples = load_examples(path, Task("tokens"))
    assert examples.texts == ["EU rejects German call .", "Peter Blackburn"]
    assert examples.words == [["EU", "rejects", "German", "call", "."], ["Peter", "Blackburn"]]
    assert examples.labels == [["B-ORG", "O", "B-MISC", "O", "O"], ["B-PER", "I-PER"]]


def test_a_conll_file_says_by_itself_what_it_is(tmp_path):
    path = tmp_path / "train.conll"
    path.write_text(CONLL)
    assert infer_task(path) == Task("tokens", labels=("B-MISC", "B-ORG", "B-PER", "I-PER", "O"), metric="entity_f1")
    assert load_examples(path, Task(label="3")).labels == [["B-NP", "B-VP", "B-NP", "I-NP", "O"], ["B-NP", "I-NP"]]


def test_words_without_tags_are_unlabelled(tmp_path):
    path = tmp_path / "words.conll"
    path.write_text("One\nword\n\nTwo\n")
    examples = load_examples(path, Task("tokens"))
    assert (examples.words, examples.labels) == ([["One", "word"], ["Two"]], None)


def test_lists_of_words_and_tags_need_no_file():
    examples = load_examples([{"text": ["New York", "wins"], "label": ["B-LOC", "O"]}])
    assert (examples.texts, examples.words) == (["New York wins"], [["New York", "wins"]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("EU B-ORG\nrejects\n", r"bad\.conll, line 2: expected 2 columns as in the first line, found 1"),
        (
            "EU B-ORG\n\nthe O\nUN ORG\n",
            r'bad\.conll, sentence from line 3, column "tag": "ORG" is not an IOB tag; expected O',
        ),
        ("\n\n", r"bad\.conll: there are no examples in it"),
        ("a O\nb O\n", r'bad\.conll, column "tag": every label is "O"; expected at least two classes'),
    ],
)
def test_bad_columns_are_named(content, message, tmp_path):
    path = tmp_path / "bad.conll"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_examples(path)


def test_tags_and_words_must_match():
    with pytest.raises(UserError, match='item 0, column "label": expected a tag for each of 2 words, found 1'):
        load_examples([{"text": ["a", "b"], "label": ["O"]}], Task(labels=("O", "B-X")))
    with pytest.raises(UserError, match=r'item 1, column "label": unknown label "B-Y"; expected one of: O, B-X'):
        load_examples([{"text": ["a"], "label": ["O"]}, {"text": ["b"], "label": ["B-Y"]}], Task(labels=("O", "B-X")))


def test_squad_questions_come_with_context_and_answers(tmp_path):
    path = squad_file(tmp_path)
    examples = load_examples(path)
    assert infer_task(path) == Task("qa", metric="squad_f1")
    assert examples.texts == ["Which river?", "How big?"]
    assert examples.pairs == ["Warsaw lies on the Vistula. It is big."] * 2
    assert examples.labels == [
        {"text": ["Vistula", "the Vistula"], "answer_start": [19, 15]},
        {"text": ["big"], "answer_start": [34]},
    ]


def test_questions_without_any_answers_are_unlabelled(tmp_path):
    def drop(paragraph):
        for question in paragraph["qas"]:
            del question["answers"]

    assert load_examples(squad_file(tmp_path, drop), Task("qa")).labels is None


def shift(paragraph):
    paragraph["qas"][1]["answers"][0]["answer_start"] = 33


def headless(paragraph):
    del paragraph["context"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shift, 'question "q2", column "answers": the context does not read "big" at character 33'),
        (headless, "squad.json: expected SQuAD's JSON, that is data -> paragraphs"),
    ],
)
def test_bad_answers_are_named(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_examples(squad_file(tmp_path, change))


def test_other_json_is_no_squad(tmp_path):
    path = tmp_path / "rows.json"
    for content in ("{", "[]", '{"data": 3}'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"rows\.json: (not valid JSON|expected SQuAD's|there are no)"):
            load_examples(path)


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_comments_of_conll_are_left_out_and_words_that_begin_with_a_hash_are_not(separator, tmp_path):
    lines = ["# sent_id = 1", "# EU rejects", "EU B-ORG", "# O", "#film O", "", "# newdoc", "#film B-X", "ends O"]
    words = {"EU B-ORG", "# O", "#film O", "#film B-X", "ends O"}
    path = tmp_path / "a.conll"
    path.write_text("\n".join(line.replace(" ", separator) if line in words else line for line in lines) + "\n")
    if separator == " ":  # "# EU rejects" has the three columns of nothing here, "# newdoc" the two of a word
        with pytest.raises(UserError, match='sentence from line 7, column "tag": "newdoc" is not an IOB tag'):
            load_examples(path)
        path.write_text(path.read_text().replace("# newdoc\n", ""))
    examples = load_examples(path)
    assert examples.words == [["EU", "#", "#film"], ["#film", "ends"]]
    assert examples.labels == [["B-ORG", "O", "O"], ["B-X", "O"]]


def test_a_comment_that_nothing_follows_is_no_sentence(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("# global.columns = ID\n\na B-X\nb O\n\n# end of file here\n")
    assert load_examples(path).words == [["a", "b"]]


NO_ANSWER = {"text": [], "answer_start": []}
UNANSWERED = {
    "an empty list": {"answers": []},
    "as SQuAD 2 marks it": {"answers": [{"text": "big", "answer_start": 34}], "is_impossible": True},
}
EMPTY = {
    "an empty text": {"answers": [{"text": "", "answer_start": 0}]},
    "a blank": {"answers": [{"text": " ", "answer_start": 1}]},
}


@pytest.mark.parametrize("form", UNANSWERED)
def test_questions_without_an_answer_are_read_and_counted(form, tmp_path):
    def change(paragraph):
        paragraph["qas"][1].update(UNANSWERED[form])

    examples = load_examples(squad_file(tmp_path, change))
    assert examples.labels is not None
    assert examples.labels[1] == NO_ANSWER
    assert examples.notes == ("1 of 2 questions have no answer, as in SQuAD 2",)


def test_questions_that_are_all_impossible_are_labelled(tmp_path):
    def change(paragraph):
        for question in paragraph["qas"]:
            question.update(answers=[], is_impossible=True)

    assert load_examples(squad_file(tmp_path, change)).labels == [NO_ANSWER] * 2


@pytest.mark.parametrize("form", EMPTY)
def test_an_empty_answer_is_refused_with_what_is_expected(form, tmp_path):
    def change(paragraph):
        paragraph["qas"][1].update(EMPTY[form])

    with pytest.raises(UserError, match='question "q2", column "answers": expected') as caught:
        load_examples(squad_file(tmp_path, change))
    assert str(caught.value).splitlines()[-1].strip() == "this answer is empty"


def test_answers_of_rows_are_read_in_both_of_their_forms():
    row = {"question": "how big?", "context": "It is big."}
    answer = {"text": ["big"], "answer_start": [6]}
    for answers in (answer, [{"text": "big", "answer_start": 6}]):
        assert load_examples([{**row, "answers": answers}]).labels == [answer]
    with pytest.raises(UserError, match="this answer is empty"):
        load_examples([{**row, "answers": {"text": [""], "answer_start": [0]}}])
    for answers in ({"text": ["big"], "answer_start": [-4]}, {"text": ["big"], "answer_start": [None]}):
        with pytest.raises(UserError, match="where they begin, counted from 0"):
            load_examples([{**row, "answers": answers}])
