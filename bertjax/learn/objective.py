"""One update of a run: its losses, teachers, transforms and penalties in the order in which they act. The only place
where training calls the model.

Parts name their trees: `extra` and `state` are {"losses": ..., "transforms": ...}, with the position and class of a
part in its path, as in `extra/transforms/0_Movement/...`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.learn.loss import Loss, LossFunction, Penalty
from bertjax.learn.losses import Batch
from bertjax.learn.step import Term
from bertjax.learn.transform import Transform, Update, combined
from bertjax.model import BertModel
from bertjax.params import Tree, flatten, merge
from bertjax.text.batches import inputs_of, places_of

if TYPE_CHECKING:
    from bertjax.learn.phases import Curriculum

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


def outputs(
    model: BertModel, params: Tree, inputs: Any, places: Mapping[str, Any], masked: Any, **options: Any
) -> Outputs:
    """The outputs of a model. `masked` names the masked positions, if any loss reads all of them."""
    output: Any = model.apply({"params": params}, *inputs, **places, **options)
    if masked is None:
        return output, output
    return output._replace(logits=jax.numpy.take_along_axis(output.logits, masked[..., None], axis=1)), output
