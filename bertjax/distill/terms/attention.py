"""Losses on relations between the tokens of a text: attention before and after its softmax, and value relations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bertjax.distill.pairing import pair_layers
from bertjax.distill.terms.layers import Preset, over_layers, same, text_weights
from bertjax.errors import UserError
from bertjax.learn.loss import Loss, LossFunction, Need

if TYPE_CHECKING:
    from jax import Array

    from bertjax.learn.losses import Batch, WeightedSum
    from bertjax.learn.transform import Update
    from bertjax.model import BertConfig
    from bertjax.params import Tree

Part = Literal["queries", "keys", "values"]


@dataclass(frozen=True)
class AttentionScores(Loss):
    """Mean squared error between the attention scores of paired layers before the softmax (TinyBERT, Jiao et al. 2020,
    eq. 7). The number of heads must be equal.

    "paper" sums over the layers and takes the mean per text. "official" also sums over the layers, and counts queries
    at padding like others. Teacher outputs at padding are not stored, so with "official" the teacher runs in every
    step.
    """

    weight: float = 1.0
    pairing: str | tuple[int, ...] = "uniform"
    preset: Preset = "mean"

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need] | None:
        return None if self.preset == "official" else queries_and_keys(self.pairing, student, teacher)

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        formula = losses.score_error_with_padding if self.preset == "official" else losses.score_error
        return over_pairs(formula, equal_heads(self, student, teacher), self.preset)


@dataclass(frozen=True)
class AttentionMaps(Loss):
    """KL(teacher || student) between the attention maps of paired layers, per query and head (MobileBERT, Sun et al.
    2020, section 3.4). The number of heads must be equal.

    "paper" sums over the layers and takes the mean per text. "official" is the mean of cross-entropies over the layers,
    and counts queries at padding like others. Teacher outputs at padding are not stored, so with "official" the teacher
    runs in every step.
    """

    weight: float = 1.0
    pairing: str | tuple[int, ...] = "uniform"
    preset: Preset = "mean"

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need] | None:
        return None if self.preset == "official" else queries_and_keys(self.pairing, student, teacher)

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        def divergence(queries: Array, *rest: Array) -> WeightedSum:
            return losses.relation(queries, *rest, heads=queries.shape[2])

        pairs = equal_heads(self, student, teacher)
        if self.preset == "official":
            return over_pairs(losses.attention_cross_entropy_with_padding, pairs, "mean")
        return over_pairs(divergence, pairs, self.preset)


@dataclass(frozen=True)
class Relations(Loss):
    """KL of the relations between tokens in one layer, softmax(A A' / sqrt(d)), for queries, keys and values (MiniLM
    v2, Wang et al. 2021). Widths and numbers of heads may differ: the vectors of all heads are concatenated and split
    again into `heads` relation heads. Both widths must be divisible by `heads`.

    MiniLM v1 (Wang et al. 2020) is Relations(of=(("queries", "keys"), ("values", "values")), heads=None). It uses the
    models' own heads, whose numbers must be equal. "paper" sums over the relations and takes the mean per text.
    """

    weight: float = 1.0
    of: tuple[tuple[Part, Part], ...] = (("queries", "queries"), ("keys", "keys"), ("values", "values"))
    heads: int | None = 48
    teacher_layer: int = -1
    """The last layer by default. For a large teacher an inner layer is better: 20 of BERT-large's 24."""
    preset: Literal["mean", "paper"] = "mean"

    def layer(self, teacher: BertConfig) -> int:
        if not -teacher.depth <= self.teacher_layer < teacher.depth:
            raise UserError(
                f"Relations: teacher_layer is {self.teacher_layer}; the teacher has {teacher.depth} layers, so "
                f"expected 0 to {teacher.depth - 1}, or -1 for the last."
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
                raise UserError(
                    f"Relations: a width of {count * config.head_size} (attention heads x head size) is not divisible "
                    f"by heads={heads}; expected a number that divides the widths of both student and teacher."
                )
        of, preset = self.of, self.preset

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            weights = text_weights(batch, preset)

            def divergence(one: Part, two: Part) -> WeightedSum:
                ours, theirs = (
                    (getattr(out, one)[i], getattr(out, two)[i]) for out, i in ((student_out, s), (teacher_out, t))
                )
                return losses.relation(*ours, *theirs, batch["attention_mask"], weights, heads)

            return over_layers([divergence(*pair) for pair in of], preset)

        return loss


@dataclass(frozen=True)
class TokenRanking(Loss):
    """The teacher's last layer teaches lower layers of the student which tokens matter: an inner layer ranks tokens by
    the attention that they get, and the last one has the better ranking (ToP, Li et al. 2023). It is a sum
    over layers, as published. Numbers of heads and widths may differ.

    It is for students that learn to drop tokens while every row stays in its place (`bertjax.token_dropping`). The
    published weights are 1e-2 to 1e-5.
    """

    weight: float = 1e-2
    """The weight at first. It falls linearly to a hundredth, where it stays."""
    top: int = 20
    """How many of the teacher's highest ranks are compared. Published: 20, 10 for CoLA."""
    layers: tuple[int, ...] = ()
    """Layers of the student. None given: 1 to a third of its depth, exclusive, as published: 1, 2 and 3 of 12."""
    warmup: float = 0.25
    """Fraction of the steps over which the weight falls. Published: as long as the target of the gates grows."""

    def __post_init__(self) -> None:
        if self.top < 2 or not 0 <= self.warmup <= 1:
            raise UserError(
                f"TokenRanking: top is {self.top}; expected 2 or more ranks. warmup is {self.warmup}; expected a "
                "fraction of the steps, from 0 to 1."
            )

    def weight_at(self, update: Update) -> Any:
        import jax.numpy as jnp

        progress = update.step / max(round(self.warmup * update.total), 1)
        return self.weight * jnp.maximum(0.01, 1 - progress)

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
        return frozenset((name, teacher.depth - 1) for name in ("queries", "keys"))

    def reads_states(self, student: BertConfig, teacher: BertConfig) -> bool:
        # The rows of a student that multiplies or hides tokens stay where the teacher's are; `build` refuses others.
        return False

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        if student.retention is not None:
            raise UserError(
                "TokenRanking compares tokens by their places, and this student leaves out the rows of those that it "
                "drops; give it the model that keeps all, with RankGates as a transform, or leave the loss out."
            )
        layers, last, top = self.layers or range(1, student.depth // 3), teacher.depth - 1, self.top
        if not layers or not all(0 <= layer < student.depth for layer in layers):
            raise UserError(
                f"TokenRanking: layers are {tuple(layers)}, and the student has {student.depth} layers; give one or "
                f"more from 0 to {student.depth - 1}. The default, 1 to a third of the depth, needs 6 layers."
            )

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            theirs = teacher_out.queries[last], teacher_out.keys[last]

            def error(layer: int) -> WeightedSum:
                ours = student_out.queries[layer], student_out.keys[layer]
                return losses.token_ranking(*ours, *theirs, batch["attention_mask"], batch["weights"], top)

            return over_layers([error(layer) for layer in layers], "paper")

        return loss


def queries_and_keys(pairing: str | tuple[int, ...], student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
    layers = pair_layers(pairing, student.depth, teacher.depth)
    return frozenset((name, layer) for layer in layers for name in ("queries", "keys"))


def equal_heads(
    term: AttentionScores | AttentionMaps, student: BertConfig, teacher: BertConfig
) -> tuple[tuple[int, int], ...]:
    """(student layer, teacher layer) of every pair, after a check that both have the same number of heads."""
    pairs = tuple(enumerate(pair_layers(term.pairing, student.depth, teacher.depth)))
    for s, t in pairs:
        heads = student.depth_steps()[s].num_attention_heads, teacher.depth_steps()[t].num_attention_heads
        same(type(term).__name__, "num_attention_heads", *heads)
    return pairs


def over_pairs(formula: Callable[..., WeightedSum], pairs: tuple[tuple[int, int], ...], preset: str) -> LossFunction:
    """A loss that compares queries and keys of the paired layers."""

    def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
        weights = text_weights(batch, preset)

        def error(s: int, t: int) -> WeightedSum:
            ours, theirs = ((out.queries[i], out.keys[i]) for out, i in ((student_out, s), (teacher_out, t)))
            return formula(*ours, *theirs, batch["attention_mask"], weights)

        return over_layers([error(s, t) for s, t in pairs], preset)

    return loss
