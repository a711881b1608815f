"""Which parts of a model matter: the criteria that pruning can score layers, heads and neurons by.

A criterion is a small frozen dataclass that needs no jax until it computes. Write your own in a config file: subclass
`Criterion` and give it as `criterion`. Whatever is scored low is pruned first. A criterion that also changes the
weights that remain defines `remove` instead of `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bertjax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from bertjax.bundle import Bundle
    from bertjax.model import BertConfig
    from bertjax.params import Tree
    from bertjax.prune.allocate import Options
    from bertjax.prune.costs import Costs
    from bertjax.prune.scores import Part, Scores
    from bertjax.prune.second_order import Curves, Sizes

TaskLoss = Callable[[Any, Any], Any]
"""`(output, batch) -> (weighted sum, weight)`: the loss of the model's task against the labels."""


class Criterion:
    """Scores parts of a model. A subclass defines `scores`, `layer_scores` or both."""

    scored: ClassVar[frozenset[str]] = frozenset({"heads", "neurons", "layers"})
    """The kinds of parts that it can score."""
    reads_text: ClassVar[bool] = True
    """Whether it needs batches of text."""
    reads_labels: ClassVar[bool] = True
    """Whether it needs labelled text, and a model with a trained head."""
    repeats: ClassVar[bool] = True
    """Whether it may be applied in several iterations, each to the model that the one before it left."""
    reads_latency: ClassVar[bool] = False
    """Whether it chooses the size of each layer for a `speedup`, from a table of latencies (`remove_within`). For other
    criteria, the fraction to remove is found by measuring whole models."""

    def scores(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss, part: Part) -> Scores:
        """The scores of heads or neurons: for each parameter group, an array with one number per part."""
        raise NotImplementedError

    def remove(
        self, model: Bundle, batches: Sequence[Any], loss: TaskLoss, part: Part, count: int, multiple: int
    ) -> tuple[BertConfig, Tree]:
        """The model without `count` heads or neurons of all layers, those of the lowest scores. Each layer keeps a
        multiple of `multiple`."""
        from bertjax.prune import keep_heads, keep_neurons
        from bertjax.prune.select import select_top

        keep = keep_heads if part == "heads" else keep_neurons
        scores = self.scores(model, batches, loss, part)
        return keep(model.config, model.params, select_top(scores, count, multiple=multiple))

    def remove_within(
        self,
        model: Bundle,
        batches: Sequence[Any],
        loss: TaskLoss,
        table: Costs,
        budget: float,
        multiples: Mapping[Part, int],
    ) -> tuple[BertConfig, Tree]:
        """The model without as many heads and neurons as make its layers cost at most `budget`."""
        raise NotImplementedError

    def layer_scores(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss) -> np.ndarray:
        """The scores of layers [depth]."""
        raise NotImplementedError

    def kept_layers(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss, count: int) -> list[int]:
        """The `count` layers to keep, in order: those of the highest scores, of equal ones the first."""
        import numpy as np

        scores = self.layer_scores(model, batches, loss)
        return np.sort(np.argsort(-scores, kind="stable")[:count]).tolist()


@dataclass(frozen=True)
class Importance(Criterion):
    """The gradient of a part's gate (Michel et al. 2019)."""

    form: Literal["paper", "official", "transformers"] = "paper"

    def scores(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss, part: Part) -> Scores:
        from bertjax.prune.scores import importance

        return importance(model.model, model.params, batches, loss, part, self.form)

    def layer_scores(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss) -> np.ndarray:
        from bertjax.prune.scores import layer_importance

        return layer_importance(model.model, model.params, batches, loss)


@dataclass(frozen=True)
class PublishedImportance(Importance):
    """What a published program computes in place of the paper's formula; it is about heads."""

    scored: ClassVar[frozenset[str]] = frozenset({"heads"})


@dataclass(frozen=True)
class Magnitude(Criterion):
    """The size of the weights."""

    scored: ClassVar[frozenset[str]] = frozenset({"heads", "neurons"})
    reads_text: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False

    def scores(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss, part: Part) -> Scores:
        from bertjax.prune.scores import magnitude

        return magnitude(model.config, model.params, part)


@dataclass(frozen=True)
class Activity(Criterion):
    """The variance of a part's output."""

    scored: ClassVar[frozenset[str]] = frozenset({"heads", "neurons"})
    reads_labels: ClassVar[bool] = False

    def scores(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss, part: Part) -> Scores:
        from bertjax.prune.scores import activity

        return {group: one.variance for group, one in activity(model.model, model.params, batches, part).items()}


@dataclass(frozen=True)
class SecondOrder(Criterion):
    """The error in a layer's output, with the remaining weights corrected (ZipLM, Kurtic et al. 2023). A layer may lose
    all its heads or neurons."""

    damping: float = 1e-2
    """What is added to the diagonal of the inputs' second moments, as a fraction of its mean."""
    candidates: int = 50
    """How many allocations of heads and neurons to layers are compared by their loss on the calibration examples. 1:
    the one whose errors sum to the least."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.damping > 0 or self.candidates < 1:
            raise UserError(
                f"SecondOrder: damping={self.damping}, candidates={self.candidates}; expected a damping above 0 and at "
                "least one candidate."
            )

    scored: ClassVar[frozenset[str]] = frozenset({"heads", "neurons"})
    repeats: ClassVar[bool] = False
    reads_latency: ClassVar[bool] = True

    def remove(
        self, model: Bundle, batches: Sequence[Any], loss: TaskLoss, part: Part, count: int, multiple: int
    ) -> tuple[BertConfig, Tree]:
        from bertjax.prune.allocate import all_counts, options_for
        from bertjax.prune.scores import OWNER
        from bertjax.prune.surgery import group_sizes

        curves = self.curves(model, batches, (part,))
        options = options_for(curves, lambda _, group, size: size, lambda _, size: all_counts(size, multiple))
        budget = sum(group_sizes(model.config, OWNER[part]).values()) - count
        return self.searched(model, batches, loss, curves, options, budget, unit=1.0)

    def remove_within(
        self,
        model: Bundle,
        batches: Sequence[Any],
        loss: TaskLoss,
        table: Costs,
        budget: float,
        multiples: Mapping[Part, int],
    ) -> tuple[BertConfig, Tree]:
        from bertjax.prune.allocate import all_counts, cost_of, geometric_counts, options_for

        curves = self.curves(model, batches, tuple(multiples))
        counts = {"heads": all_counts, "neurons": geometric_counts}
        options = options_for(
            curves, cost_of(model.config, table), lambda part, size: counts[part](size, multiples[part])
        )
        return self.searched(model, batches, loss, curves, options, budget)

    def curves(self, model: Bundle, batches: Sequence[Any], parts: Sequence[Part]) -> Curves:
        """The removal curves of these parts in every layer."""
        from bertjax.prune.second_order import input_products, removal_curves

        products = input_products(model.model, model.params, batches)
        return removal_curves(model.config, model.params, {part: products[part] for part in parts}, self.damping)

    def searched(
        self,
        model: Bundle,
        batches: Sequence[Any],
        loss: TaskLoss,
        curves: Curves,
        options: Sequence[Options],
        budget: float,
        unit: float = 0.0,
    ) -> tuple[BertConfig, Tree]:
        """The model with the best sizes within the budget."""
        from bertjax.prune.allocate import search_sizes
        from bertjax.prune.second_order import calibration_loss, remove, with_corrected

        mean_loss = calibration_loss(model.model, batches, loss)

        def loss_of(sizes: Sizes) -> float:
            return mean_loss(with_corrected(model.params, sizes, curves))

        sizes = search_sizes(options, budget, loss_of, self.candidates, self.seed, unit)
        return remove(model.config, model.params, sizes, curves)


@dataclass(frozen=True)
class Random(Criterion):
    """Random scores, the control."""

    seed: int = 0

    reads_text: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False

    def scores(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss, part: Part) -> Scores:
        from bertjax.prune.scores import random

        return random(model.config, part, self.seed)

    def layer_scores(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss) -> np.ndarray:
        import numpy as np

        return np.random.default_rng(self.seed).random(model.config.depth)


@dataclass(frozen=True)
class EvenlySpaced(Criterion):
    """Layers at even distances, the last of them among the kept: "every other" for half of them (LayerDrop, Fan et al.
    2019)."""

    scored: ClassVar[frozenset[str]] = frozenset({"layers"})
    reads_text: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False
    repeats: ClassVar[bool] = False

    def kept_layers(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss, count: int) -> list[int]:
        return [-(-(i + 1) * model.config.depth // count) - 1 for i in range(count)]


@dataclass(frozen=True)
class LeaveOneOut(Criterion):
    """The rise of the loss without the layer. With as many iterations as layers are removed, this searches greedily
    (LayerDrop, Fan et al. 2019, "search on validation")."""

    scored: ClassVar[frozenset[str]] = frozenset({"layers"})

    def layer_scores(self, model: Bundle, batches: Sequence[Any], loss: TaskLoss) -> np.ndarray:
        import jax
        import jax.numpy as jnp
        import numpy as np

        @jax.jit
        def total(params: Any, batch: Any, switches: Any) -> Any:
            inputs = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
            return loss(model.model.apply({"params": params}, *inputs, switches=switches), batch)[0]

        without = ~np.eye(model.config.depth, dtype=bool)
        rows = [[total(model.device_params, batch, jnp.asarray(row)) for row in without] for batch in batches]
        return np.sum(jax.device_get(rows), axis=0)


CRITERIA: dict[str, Criterion] = {
    "importance": Importance(),
    "official": PublishedImportance("official"),
    "transformers": PublishedImportance("transformers"),
    "magnitude": Magnitude(),
    "activity": Activity(),
    "second_order": SecondOrder(),
    "random": Random(),
    "evenly_spaced": EvenlySpaced(),
    "leave_one_out": LeaveOneOut(),
}
"""The criteria by the names that flags have for them."""
