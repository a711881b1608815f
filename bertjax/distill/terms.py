"""The distillation losses as configs hold them: a name and numbers, and one method that builds the formula.

`needs` tells what of the teacher a loss looks at besides its logits, as pairs ("hidden_states", place), ("queries",
layer) and so on; such outputs can be computed once and stored. A loss without that method, or that answers None, gets a
teacher that runs in every step. This module imports no jax, so that a config file costs nothing to read.

A weight means what it says only with the reduction that it was chosen for. Here every term is a mean: over pieces or
texts, and over layers, heads and widths. `preset` multiplies by what a paper's formula ("paper") or its authors'
published code ("official") has instead, so that their weights can be used as they were printed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bertjax.distill.pairing import pair_layers
from bertjax.errors import UserError

if TYPE_CHECKING:
    from jax import Array

    from bertjax.distill.teacher import Need
    from bertjax.losses import Batch, Sum
    from bertjax.model import BertConfig
    from bertjax.params import Tree

Preset = Literal["mean", "paper", "official"]
Part = Literal["queries", "keys", "values"]
LossFunction = Callable[..., "Sum"]
"""`(extra, student_out, teacher_out, batch) -> (weighted sum, weight)`."""


class Loss(Protocol):
    """What `losses` in a config may hold."""

    @property
    def weight(self) -> float: ...

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction: ...


@dataclass(frozen=True)
class HardLabels:
    """The task's own loss against the labels of the data."""

    weight: float = 1.0

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
        return frozenset()

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.losses import TASK_LOSSES
        from bertjax.predict import kind_of

        task_loss = TASK_LOSSES[kind_of(student)]

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> Sum:
            return task_loss(student_out.logits, batch)

        return loss


@dataclass(frozen=True)
class SoftTargets:
    """The teacher's probabilities at a temperature; its number for regression (Hinton et al. 2015).

    Of classes there are three published forms: T^2 KL per row ("hinton"); the same divided by the number of classes
    (the code of PKD); the cross-entropy divided by that number, without T^2 (the code of TinyBERT)."""

    weight: float = 1.0
    temperature: float = 2.0
    preset: Literal["hinton", "pkd", "tinybert"] = "hinton"

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
        return frozenset()

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses
        from bertjax.predict import kind_of

        kind, temperature, preset = kind_of(student), self.temperature, self.preset
        if preset != "hinton" and kind != "classification":
            raise UserError(f"SoftTargets(preset={preset!r}) is about classes, not about {kind}; use hinton.")

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> Sum:
            logits, target, weights = student_out.logits, teacher_out.logits, batch["weights"]
            if kind == "regression":
                return losses.squared_error(logits, target, weights)
            if kind == "qa":
                return losses.span_soft_targets(logits, target, batch["attention_mask"], weights, temperature)
            if kind == "tokens":
                return losses.soft_targets(logits, target, batch["attention_mask"] * weights[:, None], temperature)
            if kind == "multi_label":
                return losses.binary_soft_targets(logits, target, weights, temperature)
            formula = losses.soft_cross_entropy if preset == "tinybert" else losses.soft_targets
            total, weight = formula(logits, target, weights, temperature)
            return total if preset == "hinton" else total / logits.shape[-1], weight

        return loss


@dataclass(frozen=True)
class HiddenStates:
    """Mean squared error between paired hidden states, the embeddings among them, over real pieces (TinyBERT, Jiao et
    al. 2020, eq. 8-9). A learned projection, shared by all layers, bridges different widths; equal widths need none.

    "paper" sums over the layers. "official" does too, counts padding like other pieces, and always has a projection,
    with a bias; what a teacher says of padding is not stored, so it has to run in every step."""

    weight: float = 1.0
    pairing: str | tuple[int, ...] = "uniform"
    embeddings: bool = True
    preset: Preset = "mean"

    def pairs(self, student: BertConfig, teacher: BertConfig) -> tuple[tuple[int, int], ...]:
        """(student, teacher) positions in `hidden_states`."""
        layers = pair_layers(self.pairing, student.depth, teacher.depth)
        return ((0, 0),) * self.embeddings + tuple((i + 1, layer + 1) for i, layer in enumerate(layers))

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need] | None:
        if self.preset == "official":
            return None
        return frozenset(("hidden_states", t) for _, t in self.pairs(student, teacher))

    def parameters(self, key: Array, student: BertConfig, teacher: BertConfig) -> Tree:
        """The projection, in `extra`: it is trained and never ships."""
        official = self.preset == "official"
        if student.hidden_size == teacher.hidden_size and not official:
            return {}
        import jax
        import jax.numpy as jnp

        kernel = jax.random.normal(key, (student.hidden_size, teacher.hidden_size)) * student.hidden_size**-0.5
        return {"kernel": kernel} | ({"bias": jnp.zeros(teacher.hidden_size)} if official else {})

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        pairs, preset = self.pairs(student, teacher), self.preset

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> Sum:
            mask = batch["attention_mask"]
            weights = (mask * 0 + 1 if preset == "official" else mask) * batch["weights"][:, None]

            def error(s: int, t: int) -> Sum:
                hidden = student_out.hidden_states[s]
                if "kernel" in extra:
                    hidden = hidden @ extra["kernel"]
                if "bias" in extra:
                    hidden = hidden + extra["bias"][None, None]
                return losses.squared_error(hidden, teacher_out.hidden_states[t], weights)

            return over_layers([error(s, t) for s, t in pairs], preset)

        return loss


@dataclass(frozen=True)
class LastHiddenState:
    """1 - cos between the last hidden states of a real piece (DistilBERT, Sanh et al. 2019); widths must be equal."""

    weight: float = 1.0

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
        return frozenset({("hidden_states", teacher.depth)})

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        same("LastHiddenState", "hidden_size", student.hidden_size, teacher.hidden_size)
        last = student.depth, teacher.depth

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> Sum:
            states = student_out.hidden_states[last[0]], teacher_out.hidden_states[last[1]]
            return losses.cosine(*states, batch["attention_mask"] * batch["weights"][:, None])

        return loss


@dataclass(frozen=True)
class Patience:
    """Mean squared error between the first rows of paired layers, the student's last one left out, of length 1 if
    `normalised` (PKD, Sun et al. 2019, eq. 7); widths must be equal. With "uniform" it is the paper's PKD-skip.

    "paper" sums over layers and width. The authors' code takes the mean, and normalises for some tasks only."""

    weight: float = 1.0
    pairing: str | tuple[int, ...] = "uniform"
    normalised: bool = True
    preset: Preset = "mean"

    def pairs(self, student: BertConfig, teacher: BertConfig) -> tuple[tuple[int, int], ...]:
        """(student, teacher) positions in `hidden_states`."""
        layers = pair_layers(self.pairing, student.depth, teacher.depth)[:-1]
        if not layers:
            raise UserError("Patience compares all layers of the student but the last; one of 1 layer has none left.")
        return tuple((i + 1, layer + 1) for i, layer in enumerate(layers))

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
        return frozenset(("first", t) for _, t in self.pairs(student, teacher))

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        same("Patience", "hidden_size", student.hidden_size, teacher.hidden_size)
        pairs, formula = self.pairs(student, teacher), losses.squared_error
        formula = losses.direction_error if self.normalised else formula
        factor = student.hidden_size if self.preset == "paper" else 1

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> Sum:
            def error(s: int, t: int) -> Sum:
                rows = student_out.hidden_states[s][:, 0], teacher_out.hidden_states[t][:, 0]
                total, weight = formula(*rows, batch["weights"])
                return factor * total, weight

            return over_layers([error(s, t) for s, t in pairs], "paper" if self.preset == "paper" else "mean")

        return loss


@dataclass(frozen=True)
class AttentionScores:
    """Mean squared error between attention scores of paired layers before the softmax (TinyBERT, Jiao et al. 2020, eq.
    7); the number of heads must be equal.

    "paper" sums over the layers. "official" does too, and counts queries of padding like others; what a teacher says
    of padding is not stored, so it has to run in every step."""

    weight: float = 1.0
    pairing: str | tuple[int, ...] = "uniform"
    preset: Preset = "mean"

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need] | None:
        if self.preset == "official":
            return None
        layers = pair_layers(self.pairing, student.depth, teacher.depth)
        return frozenset((name, layer) for layer in layers for name in ("queries", "keys"))

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        import jax

        from bertjax.distill import losses

        pairs = tuple(enumerate(pair_layers(self.pairing, student.depth, teacher.depth)))
        for s, t in pairs:
            heads = student.depth_steps()[s].num_attention_heads, teacher.depth_steps()[t].num_attention_heads
            same("AttentionScores", "num_attention_heads", *heads)
        formula = losses.score_error_with_padding if self.preset == "official" else losses.score_error
        # Computed once more on the way back, so that the maps of one layer at a time are in memory.
        formula, preset = jax.checkpoint(formula), self.preset  # type: ignore[attr-defined]

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> Sum:
            def error(s: int, t: int) -> Sum:
                ours, theirs = ((out.queries[i], out.keys[i]) for out, i in ((student_out, s), (teacher_out, t)))
                return formula(*ours, *theirs, batch["attention_mask"], batch["weights"])

            return over_layers([error(s, t) for s, t in pairs], preset)

        return loss


@dataclass(frozen=True)
class Relations:
    """How the pieces of a text relate in one layer, as KL of softmax(A A' / sqrt(d)) of queries, keys and values
    (MiniLM v2, Wang et al. 2021). Widths and numbers of heads may differ: the vectors of all heads are cut anew into
    `heads` relation heads, which both widths must be divisible by.

    MiniLM v1 (Wang et al. 2020) is Relations(of=(("queries", "keys"), ("values", "values")), heads=None): attention
    itself, and with the models' own heads, which must be as many. "paper" sums over the relations."""

    weight: float = 1.0
    of: tuple[tuple[Part, Part], ...] = (("queries", "queries"), ("keys", "keys"), ("values", "values"))
    heads: int | None = 48
    teacher_layer: int = -1
    """The last by default. Of a large teacher an inner one is better: 20 of BERT-large's 24."""
    preset: Literal["mean", "paper"] = "mean"

    def layer(self, teacher: BertConfig) -> int:
        if not -teacher.depth <= self.teacher_layer < teacher.depth:
            raise UserError(
                f"Relations: teacher_layer is {self.teacher_layer}; the teacher has {teacher.depth} layers."
            )
        return self.teacher_layer % teacher.depth

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
        return frozenset((name, self.layer(teacher)) for pair in self.of for name in pair)

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        s, t = student.depth - 1, self.layer(teacher)
        own = student.depth_steps()[s].num_attention_heads, teacher.depth_steps()[t].num_attention_heads
        if self.heads is None:
            same("Relations(heads=None)", "num_attention_heads", *own)
        heads = self.heads or own[0]
        for config, count in ((student, own[0]), (teacher, own[1])):
            if count * config.head_size % heads:
                raise UserError(f"Relations: a width of {count * config.head_size} does not divide into {heads} heads.")
        of, preset = self.of, self.preset

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> Sum:
            def divergence(one: Part, two: Part) -> Sum:
                ours, theirs = (
                    (getattr(out, one)[i], getattr(out, two)[i]) for out, i in ((student_out, s), (teacher_out, t))
                )
                return losses.relation(*ours, *theirs, batch["attention_mask"], batch["weights"], heads)

            return over_layers([divergence(*pair) for pair in of], preset)

        return loss


def over_layers(sums: list[Sum], preset: str) -> Sum:
    """Losses of several layers, which have one weight, as one: their mean, or their sum for a paper's formula."""
    total = sum(total for total, _ in sums)
    return total if preset != "mean" else total / len(sums), sums[0][1]  # type: ignore[return-value]


def same(term: str, what: str, student: int, teacher: int) -> None:
    if student != teacher:
        raise UserError(f"{term} compares like with like: the student's {what} is {student}, the teacher's {teacher}.")
