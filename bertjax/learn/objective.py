"""What a run learns, assembled from parts: losses, teachers, transforms, penalties. The only place where training calls
the model.

Every kind of training is made here, so whatever one has (packed rows, several teachers, stored teacher outputs, masks,
rounding, a curriculum) all have. Parts name their trees: `extra` and `state` are {"losses": ..., "transforms": ...},
with the position and class of a part in its path, as in `extra/transforms/0_Movement/...`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.learn.loss import Loss, LossFunction, Penalty
from bertjax.learn.losses import Batch
from bertjax.learn.removal import cut_like, kept_rows_and_columns
from bertjax.learn.step import Objective, Term
from bertjax.learn.transform import Transform, Update, check_removals, check_zeros, combined, named
from bertjax.model import BertModel
from bertjax.params import Tree, flatten, merge, split_by_pattern
from bertjax.text.batches import inputs_of, places_of

if TYPE_CHECKING:
    from bertjax.learn.phases import Curriculum, Phases
    from bertjax.model import BertConfig

Terms = dict[str, Term]
Outputs = tuple[Any, Any]
"""A model's output with the logits that most losses read, and with those of all positions. The two differ only in
masked language modelling, where most losses read the masked positions."""


class StoredOutputs(Protocol):
    """A teacher's outputs, computed once (`bertjax.distill.teacher`)."""

    @property
    def seconds(self) -> float | None: ...

    def add_to(self, batch: Any) -> Any: ...

    def output(self, batch: Mapping[str, Any]) -> Any: ...


class Teacher(NamedTuple):
    """A model to learn from. It runs in every step, unless its outputs are stored."""

    bundle: Bundle
    stored: StoredOutputs | None = None


class BoundLoss(NamedTuple):
    """A loss and its formula for these models."""

    loss: Loss
    teacher: int | None
    """Index of the teacher; None for a loss that reads none."""
    formula: LossFunction


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


def terms_of(
    losses: Mapping[str, BoundLoss],
    own: Tree,
    student_out: Outputs,
    teacher_out: Sequence[Outputs],
    batch: Batch,
    update: Update,
) -> Terms:
    """The terms of bound losses, from the output of the student and of each teacher; teachers are averaged."""
    terms = {}
    for name, (loss, teacher, formula) in losses.items():
        which = int(loss.reads_all_positions)
        theirs = None if teacher is None else teacher_out[teacher][which]
        try:
            with jax.named_scope(f"[{name}]"):  # in brackets, like the sites of the model's products
                total, weight = formula(own.get(name, {}), student_out[which], theirs, batch)
        except KeyError as error:
            if error.args != ("labels",):
                raise
            raise UserError(
                f"{type(loss).__name__} reads labels, which this text lacks; give text with labels, and declare "
                "reads_labels = True in the loss."
            ) from error
        share = 1 if teacher is None else len(teacher_out)
        terms[name] = Term(total, weight, loss.weight_at(update) / share)
    return terms


def initial_trees(parts: Mapping[str, Transform], student: Bundle, seed: int) -> tuple[Tree, Tree]:
    """The extra and the state of each transform."""
    key = jax.random.fold_in(jax.random.key(seed), 3)
    trees = {
        name: part.init(jax.random.fold_in(key, number), student.config, student.params)
        for number, (name, part) in enumerate(parts.items())
    }
    return {name: extra for name, (extra, _) in trees.items()}, {name: state for name, (_, state) in trees.items()}


class Step(NamedTuple):
    """The functions of an objective."""

    student: Bundle
    losses: dict[str, BoundLoss]
    teachers: tuple[Teacher, ...]
    transforms: dict[str, Transform]
    penalties: tuple[Penalty, ...]
    total: int
    curriculum: Curriculum | None
    dropout: bool

    def of(self, update: Update, name: str = "") -> Update:
        """The update with what only the objective knows, and with a key for each transform."""
        number = list(self.transforms).index(name) if name else len(self.transforms)
        key = jax.random.fold_in(update.key, number)
        return Update(update.step, key, self.total, self.student.config)

    def trees(self, name: str, extra: Tree, state: Tree) -> tuple[Tree, Tree]:
        """Extra and state of one transform."""
        return extra.get("transforms", {}).get(name, {}), state.get("transforms", {}).get(name, {})

    def advance(self, update: Update, params: Tree, extra: Tree, state: Tree, constants: Tree) -> Tree:
        """The state of all transforms for this update."""
        if not state:
            return state
        whole = merge(params, constants.get("frozen", {}))
        new = {
            n: t.advance(self.of(update, n), whole, *self.trees(n, extra, state)) for n, t in self.transforms.items()
        }
        return {**state, "transforms": new}

    def still(self, update: Update, params: Tree, extra: Tree, state: Tree) -> dict[str, Any]:
        """What does not move in this update: what waits for its phase, or any transform holds still."""
        found: dict[str, Any] = {}
        if self.curriculum:
            found = self.curriculum.phases.still({"params": params, "extra": extra}, update.step)
        for name, part in self.transforms.items():
            for path, mask in part.holds_still(self.of(update, name), params, self.trees(name, {}, state)[1]).items():
                found[path] = found[path] | mask if path in found else mask
        return found

    def project(self, extra: Tree, state: Tree) -> Tree:
        """The extra of all transforms, each in its range."""
        if "transforms" not in extra:
            return extra
        own = {n: self.transforms[n].project(*self.trees(n, extra, state)) for n in extra["transforms"]}
        return {**extra, "transforms": own}

    def terms(
        self, params: Tree, extra: Tree, state: Tree, batch: Batch, update: Update, key: Any
    ) -> tuple[Terms, Tree]:
        """The terms of a batch, and what transforms observe of it."""
        if "frozen" in batch:
            params = merge(params, jax.lax.stop_gradient(batch["frozen"]))
        trained, forwards = params, {}
        for name, part in self.transforms.items():
            params, forwards[name] = part.apply(self.of(update, name), params, *self.trees(name, extra, state))
        options = combined(forwards)
        model = self.student.model
        if "product" in options:
            model = model.clone(product=options.pop("product"))
        observed: Tree = {}
        by_losses = lambda: self.losses_of(model, params, extra, batch, update, key, options)  # noqa: E731
        if self.curriculum is None:
            terms, output = by_losses()
            observed = self.observe(update, state, output, batch)
            for name, part in self.transforms.items():
                found = part.terms(self.of(update, name), output, batch, *self.trees(name, extra, state))
                terms |= {f"{name}/{which}": Term(*each) for which, each in found.items()}
        elif options:
            raise UserError(
                "progressive training cannot be combined with transforms that gate or drop layers: leave out one."
            )
        else:
            given = model, params, batch["teachers"][0], batch, update.step, key
            terms = self.curriculum.terms(*given, lambda: by_losses()[0])
        for name, part in self.transforms.items():
            own = part.penalties(self.of(update, name), trained, *self.trees(name, extra, state))
            terms |= {f"{name}/{which}": Term(value, jax.numpy.ones(())) for which, value in own.items()}
        for number, penalty in enumerate(self.penalties):
            value = penalty.value(self.of(update), trained, extra, state)
            factor = penalty.weight_at(self.of(update))
            terms[f"{number}_{type(penalty).__name__}"] = Term(value, jax.numpy.ones(()), factor)
        return terms, observed

    def observe(self, update: Update, state: Tree, output: Any, batch: Batch) -> Tree:
        """What transforms observe of a batch, as it lies in their states."""
        found: Tree = {}
        for name, part in self.transforms.items():
            if not (sums := part.observe(self.of(update, name), output, batch)):
                continue
            kept = self.trees(name, {}, state)[1].get("observed", {})
            given, known = ({path: jax.numpy.shape(x) for path, x in flatten(tree).items()} for tree in (sums, kept))
            if given != known:
                raise UserError(
                    f"transforms: {name} observes {given}, and its state holds sums of the shapes {known}; give "
                    'zeros as state["observed"] in `init`, and keep them in `advance`.'
                )
            cast = jax.tree.map(lambda x, zero: jax.numpy.asarray(x, zero.dtype), sums, kept)
            found[name] = {"observed": cast}
        return {"transforms": found} if found else {}

    def losses_of(
        self,
        model: BertModel,
        params: Tree,
        extra: Tree,
        batch: Batch,
        update: Update,
        key: Any,
        options: Mapping[str, Any],
    ) -> tuple[Terms, Any]:
        """The terms of all losses, and the student's output."""
        everywhere = any(one.loss.reads_all_positions for one in self.losses.values())
        inputs, places = inputs_of(batch), places_of(batch)
        masked = places.pop("masked_positions", None) if everywhere else None
        teacher_out = [
            outputs(t.bundle.model, own, inputs, places, masked) if t.stored is None else (t.stored.output(batch),) * 2
            for t, own in zip(self.teachers, batch.get("teachers", ()), strict=True)
        ]
        rngs = {"dropout": key} if self.dropout else None
        student_out = outputs(model, params, inputs, places, masked, rngs=rngs, **options)
        own = extra.get("losses", {})
        return terms_of(self.losses, own, student_out, teacher_out, batch, self.of(update)), student_out[0]


def outputs(
    model: BertModel, params: Tree, inputs: Any, places: Mapping[str, Any], masked: Any, **options: Any
) -> Outputs:
    """The outputs of a model. `masked` names the masked positions, if any loss reads all of them."""
    output: Any = model.apply({"params": params}, *inputs, **places, **options)
    if masked is None:
        return output, output
    return output._replace(logits=jax.numpy.take_along_axis(output.logits, masked[..., None], axis=1)), output


def loss_names(losses: Iterable[Loss]) -> dict[str, Loss]:
    """The losses of a config by position and class."""
    return {f"{number}_{type(loss).__name__}": loss for number, loss in enumerate(losses)}
