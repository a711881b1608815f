"""Losses on sentence embeddings. Those of a teacher need no labels: any text will do.

`Embeddings` asks for the same vectors, so that an index of the teacher's embeddings may be kept. `Similarities` asks
only for the same geometry within a batch, whatever the widths. `InBatchNegatives` needs pairs that belong together, and
no teacher; a larger batch has harder negatives. `HardLabels` learns the scores of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bertjax.errors import UserError
from bertjax.learn.loss import Loss, LossFunction, Need

if TYPE_CHECKING:
    from jax import Array

    from bertjax.learn.losses import Batch, WeightedSum
    from bertjax.model import BertConfig
    from bertjax.params import Tree


@dataclass(frozen=True)
class EmbeddingLoss(Loss):
    """A loss on the embeddings of texts."""

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
        return frozenset()

    def require(self, *configs: BertConfig) -> None:
        """Raises a `UserError` for a model that embeds no texts."""
        for config in configs:
            if config.embedding is None:
                raise UserError(
                    f"{type(self).__name__} compares embeddings, and a {config.architecture} has none: give "
                    "--data.kind=embedding, or another loss."
                )


@dataclass(frozen=True)
class Embeddings(EmbeddingLoss):
    """Distance of each embedding from the teacher's: 1 - cos, or the mean squared error of the numbers (Reimers and
    Gurevych 2020), which are those of vectors of length 1 if the student normalises.

    Where the widths differ, "projection" maps the student's vector to the teacher's width by a matrix that is trained
    and does not ship, and "first" compares it with the first numbers of the teacher's. With `dimensions` the loss is
    the mean over these numbers of first dimensions and the whole vector (Matryoshka, Kusupati et al. 2022).
    """

    weight: float = 1.0
    distance: Literal["cosine", "mse"] = "cosine"
    match: Literal["projection", "first"] = "projection"
    dimensions: tuple[int, ...] = ()

    def projects(self, student: BertConfig, teacher: BertConfig) -> bool:
        return self.match == "projection" and student.output_size != teacher.output_size

    def parameters(self, key: Array, student: BertConfig, teacher: BertConfig) -> Tree:
        if not self.projects(student, teacher):
            return {}
        import jax

        shape = student.output_size, teacher.output_size
        return {"kernel": jax.random.normal(key, shape) * student.output_size**-0.5}

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        self.require(student, teacher)
        ours, theirs = student.output_size, teacher.output_size
        projects = self.projects(student, teacher)
        if projects and self.dimensions:
            raise UserError("a projection mixes all dimensions: with `dimensions`, use match='first'.")
        if not projects and ours > theirs:
            raise UserError(f"the student's embedding has {ours} numbers and the teacher's {theirs}: expected no more.")
        if wrong := [size for size in self.dimensions if not 0 < size < ours]:
            raise UserError(f"dimensions: {wrong[0]}; expected 1 to {ours - 1}, below the width of the embedding.")
        normalised = (
            losses.direction_error if student.embedding and student.embedding.normalise else losses.squared_error
        )
        formula = losses.cosine if self.distance == "cosine" else normalised
        sizes = [theirs] if projects else [*self.dimensions, ours]

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            vectors = student_out.logits @ extra["kernel"] if projects else student_out.logits
            target, weights = teacher_out.logits, batch["weights"]
            found = [formula(vectors[:, :size], target[:, :size], weights) for size in sizes]
            return sum(total for total, _ in found) / len(sizes), found[0][1]  # type: ignore[return-value]

        return loss


@dataclass(frozen=True)
class Similarities(EmbeddingLoss):
    """Difference between the cosine similarities of the texts of a batch: the squared error or, with a temperature, the
    divergence of the distributions that softmax makes of each text's similarities to the others.

    The widths may differ. Each micro-batch is compared within itself, so their number has an effect on the update.
    """

    weight: float = 1.0
    temperature: float | None = None

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        self.require(student, teacher)
        temperature = self.temperature

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            given = student_out.logits, teacher_out.logits, batch["weights"]
            if temperature is None:
                return losses.similarity_error(*given)
            return losses.similarity_divergence(*given, temperature)

        return loss


@dataclass(frozen=True)
class InBatchNegatives(EmbeddingLoss):
    """Cross-entropy of finding the other text of a pair among those of the batch, in both directions (Henderson et al.
    2017, section 4.4). It needs pairs of texts that belong together, and learns from no teacher.

    Each micro-batch is compared within itself, so their number has an effect on the update.
    """

    weight: float = 1.0
    temperature: float = 0.05

    reads_teacher: ClassVar[bool] = False
    reads_pairs: ClassVar[bool] = True

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.learn.losses import in_batch_negatives

        self.require(student)
        temperature = self.temperature

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            return in_batch_negatives(student_out.logits, batch, temperature)

        return loss
