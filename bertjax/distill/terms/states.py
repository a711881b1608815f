"""Losses on layer outputs: full hidden states, feature maps, or [CLS] states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bertjax.distill.pairing import pair_layers
from bertjax.distill.terms.layers import Preset, over_layers, same, text_weights
from bertjax.errors import UserError
from bertjax.learn.loss import Loss, LossFunction, Need

if TYPE_CHECKING:
    from jax import Array

    from bertjax.bundle import Bundle
    from bertjax.learn.losses import Batch, WeightedSum
    from bertjax.model import BertConfig
    from bertjax.params import Tree


@dataclass(frozen=True)
class HiddenStates(Loss):
    """Mean squared error between paired hidden states, including the embeddings, over real tokens (TinyBERT, Jiao et
    al. 2020, eq. 8-9). A learned projection, shared by all layers, maps the student's width to the teacher's; equal
    widths need none. It starts from random numbers ("random"), or from the rotation and scale that bring the student's
    states nearest to the teacher's on sample text ("procrustes").

    "paper" sums over the layers and takes the mean per text. "official" also sums over the layers, counts padding like
    other tokens, and always has a projection, with a bias. Teacher outputs at padding are not stored, so with
    "official" the teacher runs in every step.
    """

    weight: float = 1.0
    pairing: str | tuple[int, ...] = "uniform"
    embeddings: bool = True
    preset: Preset = "mean"
    start: Literal["random", "procrustes"] = "random"

    def pairs(self, student: BertConfig, teacher: BertConfig) -> tuple[tuple[int, int], ...]:
        """(student, teacher) positions in `hidden_states`."""
        layers = pair_layers(self.pairing, student.depth, teacher.depth)
        return ((0, 0),) * self.embeddings + tuple((i + 1, layer + 1) for i, layer in enumerate(layers))

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need] | None:
        if self.preset == "official":
            return None
        return frozenset(("hidden_states", t) for _, t in self.pairs(student, teacher))

    def parameters(self, key: Array, student: BertConfig, teacher: BertConfig) -> Tree:
        """The projection. It is stored in `extra`: trained, but not part of the exported model."""
        official = self.preset == "official"
        if student.hidden_size == teacher.hidden_size and not official:
            return {}
        import jax
        import jax.numpy as jnp

        kernel = jax.random.normal(key, (student.hidden_size, teacher.hidden_size)) * student.hidden_size**-0.5
        return {"kernel": kernel} | ({"bias": jnp.zeros(teacher.hidden_size)} if official else {})

    def fit(self, extra: Tree, student: Bundle, teacher: Bundle, batches: Iterable[Batch]) -> Tree:
        """The projection fitted to sample text, if `start` is "procrustes"; otherwise unchanged."""
        if self.start == "random" or not extra:
            return extra
        from bertjax.distill.alignment import procrustes, second_moments

        pairs = self.pairs(student.config, teacher.config)
        return extra | {"kernel": procrustes(*second_moments(student, teacher, pairs, batches))}

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses
        from bertjax.distill.at_once import over_tokens

        pairs, preset = self.pairs(student, teacher), self.preset

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            mask = batch["attention_mask"]
            weights = (mask * 0 + 1 if preset == "official" else mask) * text_weights(batch, preset)[:, None]

            def error(hidden: Array, projection: Tree, target: Array, weights: Array) -> WeightedSum:
                return losses.squared_error(losses.projected(hidden, projection), target, weights)

            states = [(student_out.hidden_states[s], teacher_out.hidden_states[t]) for s, t in pairs]
            return over_layers([over_tokens(error, ours, extra, theirs, weights) for ours, theirs in states], preset)

        return loss


@dataclass(frozen=True)
class MatchedStates(Loss):
    """Mean squared error between the hidden states of some teacher layers and those of the student layers nearest to
    them, over real tokens (CoFi, Xia et al. 2022, section 3.2). It is for students that lose layers while they learn:
    the match is found anew in every step, among the layers whose feed-forward sublayer is left. A learned linear map,
    the identity at first, is applied to the student's states. Widths must be equal.

    A layer is near on average over all examples that are computed together. Each micro-batch therefore finds its own
    match, and their number has an effect on the update.

    "paper" sums over the layers. "official" also sums over the layers, counts padding like other tokens, and has a bias
    in the map. Teacher outputs at padding are not stored, so with "official" the teacher runs in every step. Unless
    `ordered`, it may also match layers that are gone, as version 3 of the authors' code does, which they mostly used.
    Their version 4, which is ordered, asks for the attention sublayer instead; the authors call that a bug (issue 53 of
    their repository), and it is not reproduced.
    """

    weight: float = 1.0
    layers: tuple[int, ...] = ()
    """Teacher layers. None given: four, evenly spaced (2, 5, 8 and 11 of 12, as published), or all if there are
    fewer."""
    ordered: bool = False
    """Whether a lower teacher layer has to get a lower student layer. Published for small data sets, on which the free
    match mixes up the order."""
    preset: Preset = "mean"

    def teacher_layers(self, teacher: BertConfig) -> tuple[int, ...]:
        rule = tuple(sorted(self.layers)) or "uniform"
        return pair_layers(rule, len(self.layers) or min(4, teacher.depth), teacher.depth)

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need] | None:
        if self.preset == "official":
            return None
        return frozenset(("hidden_states", layer + 1) for layer in self.teacher_layers(teacher))

    def packable(self, student: BertConfig, teacher: BertConfig) -> bool:
        return True

    def parameters(self, key: Array, student: BertConfig, teacher: BertConfig) -> Tree:
        """The map. It is stored in `extra`: trained, but not part of the exported model."""
        import jax.numpy as jnp

        bias = {"bias": jnp.zeros(teacher.hidden_size)} if self.preset == "official" else {}
        return {"kernel": jnp.eye(student.hidden_size), **bias}

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        import jax.numpy as jnp

        from bertjax.distill import losses
        from bertjax.learn.losses import token_weights

        same("MatchedStates", "hidden_size", student.hidden_size, teacher.hidden_size)
        layers, official = self.teacher_layers(teacher), self.preset == "official"
        every_layer = official and not self.ordered
        widths = [1] * student.depth if student.recurrence else [one.intermediate_size for one in student.depth_steps()]

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            mask, alive = batch["attention_mask"], jnp.asarray([every_layer or width > 0 for width in widths])
            weights = (mask * 0 + 1 if official else mask) * token_weights(batch)
            if student_out.gates and not every_layer:
                alive &= jnp.stack([gates.ffn_alive for gates in student_out.gates])
            theirs = [teacher_out.hidden_states[layer + 1] for layer in layers]
            ours = student_out.hidden_states[1:]
            total, weight = losses.matched_error(ours, theirs, extra, alive, weights, self.ordered)
            return total / len(layers) if self.preset == "mean" else total, weight

        return loss


@dataclass(frozen=True)
class FeatureMaps(Loss):
    """Mean squared error between the outputs of paired layers over real tokens (MobileBERT, Sun et al. 2020, section
    3.4). Widths must be equal.

    "paper" sums over the layers and takes the mean per text. "official" is a mean over layers of 100 times the error
    between normalised states, 5000 times the error of their means and 5 times the error of their variances, and counts
    padding like other tokens. Teacher outputs at padding are not stored, so with "official" the teacher runs in every
    step.
    """

    weight: float = 1.0
    pairing: str | tuple[int, ...] = "uniform"
    preset: Preset = "mean"

    def pairs(self, student: BertConfig, teacher: BertConfig) -> tuple[tuple[int, int], ...]:
        """(student, teacher) positions in `hidden_states`."""
        layers = pair_layers(self.pairing, student.depth, teacher.depth)
        return tuple((i + 1, layer + 1) for i, layer in enumerate(layers))

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need] | None:
        if self.preset == "official":
            return None
        return frozenset(("hidden_states", t) for _, t in self.pairs(student, teacher))

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses
        from bertjax.distill.at_once import over_tokens

        same("FeatureMaps", "hidden_size", student.hidden_size, teacher.hidden_size)
        pairs, preset, official = self.pairs(student, teacher), self.preset, self.preset == "official"
        formula = losses.feature_error if official else losses.squared_error
        reduction = "paper" if preset == "paper" else "mean"

        def error(hidden: Array, _: Tree, target: Array, weights: Array) -> WeightedSum:
            return formula(hidden, target, weights)

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            mask = batch["attention_mask"]
            weights = (mask * 0 + 1 if official else mask) * text_weights(batch, preset)[:, None]
            states = [(student_out.hidden_states[s], teacher_out.hidden_states[t]) for s, t in pairs]
            return over_layers([over_tokens(error, ours, (), theirs, weights) for ours, theirs in states], reduction)

        return loss


@dataclass(frozen=True)
class LastHiddenState(Loss):
    """1 - cos between the last hidden states, per real token (DistilBERT, Sanh et al. 2019). Widths must be equal."""

    weight: float = 1.0

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
        return frozenset({("hidden_states", teacher.depth)})

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        same("LastHiddenState", "hidden_size", student.hidden_size, teacher.hidden_size)
        last = student.depth, teacher.depth

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            states = student_out.hidden_states[last[0]], teacher_out.hidden_states[last[1]]
            return losses.cosine(*states, batch["attention_mask"] * batch["weights"][:, None])

        return loss


@dataclass(frozen=True)
class PatientStates(Loss):
    """Mean squared error between the [CLS] states of paired layers, except for the student's last layer (PKD, Sun et
    al. 2019, eq. 7). The states are normalised to length 1 if `normalised`. Widths must be equal. With "uniform" it is
    the paper's PKD-skip.

    "paper" sums over layers and width; all examples weigh the same in either case. The authors' code takes the mean,
    and normalises for some tasks only.
    """

    weight: float = 1.0
    pairing: str | tuple[int, ...] = "uniform"
    normalised: bool = True
    preset: Preset = "mean"

    def pairs(self, student: BertConfig, teacher: BertConfig) -> tuple[tuple[int, int], ...]:
        """(student, teacher) positions in `hidden_states`."""
        layers = pair_layers(self.pairing, student.depth, teacher.depth)[:-1]
        if not layers:
            raise UserError(
                "PatientStates compares all layers of the student except the last, so a student with 1 layer has "
                "nothing to compare; use at least 2 layers, or another loss."
            )
        return tuple((i + 1, layer + 1) for i, layer in enumerate(layers))

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
        return frozenset(("first", t) for _, t in self.pairs(student, teacher))

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        same("PatientStates", "hidden_size", student.hidden_size, teacher.hidden_size)
        pairs, formula = self.pairs(student, teacher), losses.squared_error
        formula = losses.direction_error if self.normalised else formula
        factor = student.hidden_size if self.preset == "paper" else 1
        reduction = "paper" if self.preset == "paper" else "mean"

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            def error(s: int, t: int) -> WeightedSum:
                rows = student_out.hidden_states[s][:, 0], teacher_out.hidden_states[t][:, 0]
                total, weight = formula(*rows, batch["weights"])
                return factor * total, weight

            return over_layers([error(s, t) for s, t in pairs], reduction)

        return loss
