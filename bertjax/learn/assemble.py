"""What a run learns, assembled from parts: losses, teachers, transforms, penalties.

Every kind of training is made here, so whatever one has (packed rows, several teachers, stored teacher outputs, masks,
rounding, a curriculum) all have. Before anything is compiled the parts are fitted to the student, checked against one
another, and given their own parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import jax

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.learn.loss import Loss, Penalty
from bertjax.learn.losses import Batch
from bertjax.learn.objective import BoundLoss, Step, Teacher
from bertjax.learn.removal import cut_like, kept_rows_and_columns
from bertjax.learn.step import Objective
from bertjax.learn.transform import Transform, Update, check_removals, check_zeros, named
from bertjax.params import Tree, flatten, merge, split_by_pattern

if TYPE_CHECKING:
    from bertjax.learn.phases import Curriculum, Phases
    from bertjax.model import BertConfig


@dataclass(frozen=True)
class Learning:
    """What a run learns: the initial trees, and the functions of its step."""

    objective: Objective
    params: Tree
    """The trained parameters that ship."""
    extra: Tree = field(default_factory=dict)
    """Trained, and does not ship."""
    state: Tree = field(default_factory=dict)
    """Not differentiated."""
    constants: Tree = field(default_factory=dict)
    """Arrays that are the same in every step; the objective finds them in the batch."""
    add_to_batch: Callable[[dict[str, Any]], dict[str, Any]] = lambda batch: batch
    """Adds arrays to a batch that are not text (stored teacher outputs)."""
    phases: Phases | None = None
    """Which parameters start to train when; None: all of them at once."""
    learning_rates: tuple[tuple[str, float], ...] = ()
    """Rules (regex, learning rate) for what has one of its own."""
    holds_still: bool = False
    """Whether parameters stay still in some updates, which the optimiser has to know."""
    finish: Callable[[Tree, Tree, Tree], tuple[BertConfig, Tree]] | None = None
    """`(params, extra, state) -> (config, params)` of the model that ships; None if the trees are no model's."""


def assemble(
    student: Bundle,
    losses: Mapping[str, Loss],
    *,
    steps: int,
    seed: int,
    teachers: Sequence[Teacher] = (),
    transforms: Sequence[Transform] = (),
    penalties: Sequence[Penalty] = (),
    sample: Callable[[], Iterable[Batch]] = lambda: (),
    curriculum: Curriculum | None = None,
    dropout: bool = True,
) -> Learning:
    """The learning of a student.

    Args:
      losses: By the name that they have in the log.
      steps: Updates of the whole run.
      sample: Batches of text that losses and transforms begin from.
      curriculum: What the run begins with, before it learns by `losses`.
      dropout: Whether the student has dropout.
    """
    parts = named(transforms)
    parts = {name: transform.fit(student, sample()) for name, transform in parts.items()}
    check_zeros(parts, student.params)
    check_removals(parts, student.params)
    configs = [teacher.bundle.config for teacher in teachers] or [student.config]
    check_retention(parts, student.config, losses, configs)
    bound, own = bind_losses(losses, student.config, [teacher.bundle.config for teacher in teachers], seed)
    for name, one in bound.items():
        if one.teacher is not None:
            own[name] = one.loss.fit(own[name], student, teachers[one.teacher].bundle, sample())
    extra, state = initial_trees(parts, student, seed)
    params, frozen = split_frozen(parts, student)
    live = [{} if t.stored and not (curriculum and t is teachers[0]) else t.bundle.params for t in teachers]
    constants = ({"teachers": live} if live else {}) | ({"frozen": frozen} if frozen else {})
    trees = {"losses": own} if any(own.values()) else {}
    if curriculum:
        own_trees = [name for name in parts if extra[name] or "observed" in state[name]]
        curriculum = checked(curriculum, params, own_trees)
    step = Step(student, bound, tuple(teachers), parts, tuple(penalties), steps, curriculum, dropout)
    still = jax.eval_shape(
        lambda key: step.still(Update(0, key), params, trees, {"transforms": state}), jax.random.key(0)
    )

    return Learning(
        Objective(step.terms, step.advance, step.still, step.project),
        params,
        trees | ({"transforms": extra} if any(extra.values()) else {}),
        {"transforms": state} if any(state.values()) else {},
        constants,
        lambda batch: reduce(lambda b, teacher: teacher.stored.add_to(b) if teacher.stored else b, teachers, batch),
        curriculum.phases if curriculum else None,
        tuple((rf"^extra/transforms/{n}/", t.learning_rate) for n, t in parts.items() if t.learning_rate and extra[n]),
        bool(still),
        partial(finished, step, frozen),
    )


def finished(step: Step, frozen: Tree, params: Tree, extra: Tree, state: Tree) -> tuple[BertConfig, Tree]:
    """The model that ships, from the trained trees and the frozen parameters."""
    config, params = step.student.config, merge(params, frozen)
    trees = {name: step.trees(name, extra, state) for name in step.transforms}
    while trees:
        name = next(iter(trees))
        part, own = step.transforms[name], trees.pop(name)
        config, params = part.finish(config, params, *own)
        remove = part.removal(config, params, *own)
        if remove is not None:
            kept = kept_rows_and_columns(partial(remove, config), params)
            trees = {n: tuple(cut_like(params, kept, tree, n) for tree in both) for n, both in trees.items()}
            config, params = remove(config, params)
    return config, params


def split_frozen(parts: Mapping[str, Transform], student: Bundle) -> tuple[Tree, Tree]:
    """The parameters that are trained, and those that transforms freeze.

    Raises:
      UserError: A rule matches no parameter, or nothing is left to train.
    """
    rules = [rule for part in parts.values() for rule in part.frozen(student.config)]
    for rule in rules:
        split_by_pattern(rule, student.params)  # each has to match something
    if not rules:
        return student.params, {}
    params, frozen = split_by_pattern("|".join(f"(?:{rule})" for rule in rules), student.params)
    if not flatten(params):
        raise UserError("every parameter is frozen, so there is nothing to train.")
    return params, frozen


def check_retention(
    parts: Mapping[str, Transform], student: BertConfig, losses: Mapping[str, Loss], teachers: Sequence[BertConfig]
) -> None:
    """Refuses losses that read tokens which a student or teacher that drops some no longer has."""
    student_drops = student.retention or any(part.drops_tokens for part in parts.values())
    for teacher in teachers:
        who = "student" if student_drops else "teacher"
        for loss in losses.values() if student_drops or teacher.retention else ():
            if loss.reads_states(student, teacher):
                raise UserError(
                    f"losses: {type(loss).__name__} compares the states of all tokens, and the {who} drops some; "
                    "learn from SoftTargets, HardLabels or PatientStates."
                )


def checked(curriculum: Curriculum, params: Tree, trained: Sequence[str]) -> Curriculum:
    """The curriculum, without rules about parameters that are frozen.

    Raises:
      UserError: Transforms train something of their own, or observe: in phases neither can.
    """
    if trained:
        raise UserError(f"progressive training cannot be combined with {', '.join(trained)}: leave out one of the two.")
    paths = [f"params/{path}" for path in flatten(params)]
    rules = tuple(rule for rule in curriculum.phases.first if any(re.search(rule[0], path) for path in paths))
    return curriculum._replace(phases=curriculum.phases._replace(first=rules))


def bind_losses(
    losses: Mapping[str, Loss], student: BertConfig, teachers: Sequence[BertConfig], seed: int
) -> tuple[dict[str, BoundLoss], Tree]:
    """Each loss with each of its teachers, by name, and their own parameters.

    Raises:
      UserError: A loss reads a teacher where there is none.
    """
    each: dict[str, BoundLoss] = {}
    for loss in losses.values():
        if loss.reads_teacher and not teachers:
            raise UserError(f"losses: {type(loss).__name__} reads a teacher's output, and this run has no teacher.")
    for number, teacher in enumerate(teachers or [student]):
        for name, loss in losses.items():
            if loss.reads_teacher:
                formula = loss.build(student, teacher)
                each[f"{name}_of_{number}" if number else name] = BoundLoss(loss, number, formula)
            elif number == 0:
                each[name] = BoundLoss(loss, None, loss.build(student, student))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2), max(1, len(each)))
    own = {
        name: one.loss.parameters(key, student, student if one.teacher is None else teachers[one.teacher])
        for key, (name, one) in zip(keys, each.items(), strict=False)
    }
    return each, own


def initial_trees(parts: Mapping[str, Transform], student: Bundle, seed: int) -> tuple[Tree, Tree]:
    """The extra and the state of each transform."""
    key = jax.random.fold_in(jax.random.key(seed), 3)
    trees = {
        name: part.init(jax.random.fold_in(key, number), student.config, student.params)
        for number, (name, part) in enumerate(parts.items())
    }
    return {name: extra for name, (extra, _) in trees.items()}, {name: state for name, (_, state) in trees.items()}


def loss_names(losses: Iterable[Loss]) -> dict[str, Loss]:
    """The losses of a config by position and class."""
    return {f"{number}_{type(loss).__name__}": loss for number, loss in enumerate(losses)}
