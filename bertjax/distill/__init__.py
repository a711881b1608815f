"""What a student learns from a teacher.

A fine-tuned teacher says more about a sentence than its label: how sure it is, what it nearly said, and what its layers
made of the words on the way. A student of a quarter of the size that imitates these reaches scores that the labels
alone would not teach it, and needs no labels at all: any text will do.

    losses.py       the formulas: soft targets, hidden states, feature maps, first rows, attention, relations
    terms/          the same as small dataclasses for configs (a name and numbers), each of which builds its formula
    pairing.py      which layer of the student learns from which layer of the teacher
    alignment.py    a projection between two widths, found from text
    progressive.py  one layer after another, before everything at once
    student.py      the student's shape, and its start from the teacher's own layers or another model's
    guesses.py      what else could stand in a place, for copies of a text (`bertjax.text.augment`)

A loss of your own is a frozen dataclass in your config file with a field `weight` and a method

    build(student: BertConfig, teacher: BertConfig) -> (extra, student_out, teacher_out, batch) -> (sum, weight)

`teacher_out` then is the teacher's full `ModelOutput`, computed in the step. A loss that needs only the teacher's
logits or parts of some layers says so in a method `needs`, and lives from outputs that were computed once and stored.
The trade-off: stored states make each epoch cheap and take disk; a live teacher costs its forward pass in every step.
"""
