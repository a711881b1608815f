"""Distillation: training a small student model to imitate a fine-tuned teacher.

The teacher's probabilities, hidden states and attention carry more information than labels alone, so a student of a
quarter of the teacher's size reaches higher scores. It also needs no labels, so it can train on unlabelled text.

    losses.py       the formulas: soft targets, hidden states, feature maps, [CLS] states, attention, relations
    terms/          the losses as dataclasses for configs (a weight and settings), each of which builds its formula
    pairing.py      which teacher layer each student layer learns from
    alignment.py    an initial projection between two widths, fitted on text
    at_once.py      losses whose gradient is computed together with their value, to save memory
    progressive.py  training one layer after another before all of them together
    teacher.py      teacher outputs, computed once and stored
    substitutes.py  replacement words from a masked language model, for augmentation (`bertjax.text.augment`)

To add a loss, write a frozen dataclass in your config file that subclasses `bertjax.learn.Loss`, with a method

    build(student: BertConfig, teacher: BertConfig) -> (extra, student_out, teacher_out, batch) -> (sum, weight)

`teacher_out` is then the teacher's full `ModelOutput`, computed in every step. A loss that needs only the logits or the
states of some layers can declare them with a method `needs`. It then reads outputs that were computed once and stored.

The trade-off: stored outputs make each epoch cheaper but take disk space; a live teacher costs a forward pass per step.
"""

from bertjax.callable_package import make_callable

make_callable(__name__)
