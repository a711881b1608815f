"""Quantisation-aware training as a transform: the model computes with rounded weights and activations, and ships as
integers with exactly the values that it trained with (`training.py` has the formulas)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bertjax.errors import UserError
from bertjax.learn.transform import Forward, Transform, Update
from bertjax.quantized.formats import INT8, Activation, Format, Quantization

if TYPE_CHECKING:
    from jax import Array

    from bertjax.bundle import Bundle
    from bertjax.learn.losses import Batch
    from bertjax.model import BertConfig
    from bertjax.params import Tree

WeightRange = Literal["min_max", "percentile", "least_squares"]
ActivationRange = Literal["min_max", "moving_average", "percentile", "least_squares"]


@dataclass(frozen=True)
class FakeQuantize(Transform):
    """Rounded weights and activations with straight-through gradients. Give it last."""

    weights: tuple[tuple[str, Format | None], ...] = INT8
    """Ordered rules (regex, format) over parameter paths; the first match wins."""
    activations: Literal["fixed", "token", "none"] = "fixed"
    """Rounding of activations: one range for all text, found before training on the model as it begins; a range for
    each token, which suits a model that changes much, as under pruning; or floating point."""
    bits: int = 8
    """Bits of activations."""
    activation_range: ActivationRange = "percentile"
    """Estimator of fixed ranges."""
    learned: bool = False
    """Train the scales (LSQ, Esser et al. 2020). Otherwise the ranges of weights follow the weights, and those of
    activations stay."""
    weight_range: WeightRange = "least_squares"
    """Estimator of the initial scales, if they are learned."""
    delay: float = 0.0
    """Fraction of the steps before activations are rounded, too."""
    ranges: tuple[tuple[str, Activation], ...] | None = None
    """The quantisation of activations by site; found by `fit` if None."""

    stores_integers: ClassVar[bool] = True

    def fit(self, student: Bundle, batches: Iterable[Batch]) -> FakeQuantize:
        """With the quantisation of activations at each site whose weights are rounded."""
        if self.ranges is not None:
            return self
        from bertjax.model import build
        from bertjax.model.sites import integer_sites
        from bertjax.quantize.activations import find_ranges
        from bertjax.quantize.weights import quantise_weights
        from bertjax.text.batches import inputs_of

        if self.activations == "none":
            return dataclasses.replace(self, ranges=())
        config, params = quantise_weights(student.config, student.params, self.weights, "min_max")
        if self.activations == "token":
            sites = integer_sites(build(config), params)
            return dataclasses.replace(self, ranges=tuple((site, Activation(self.bits)) for site in sites))
        inputs = [inputs_of(batch) for batch in batches]
        if not inputs:
            raise UserError(
                "FakeQuantize: there is no sample text to find fixed ranges of activations on; use activations='token'."
            )
        found = find_ranges(build(config), params, inputs, self.activation_range, self.bits)
        return dataclasses.replace(self, ranges=tuple(found.items()))

    def moves_zeros(self, params: Tree, path: str) -> bool:
        from bertjax.quantize.weights import formats_of

        format = formats_of(params, self.weights).get(path)
        return format is not None and format.scheme == "asymmetric"

    def reads_whole(self, params: Tree) -> tuple[str, ...]:
        from bertjax.quantize.weights import formats_of

        formats = formats_of(params, self.weights)
        return tuple(
            path
            for path, one in formats.items()
            if one.scheme == "ternary" or {one.block_rows, one.block_cols} - {None, 1}
        )

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        """The initial scales, if they are learned."""
        if not self.learned:
            return {}, {}
        import jax.numpy as jnp

        from bertjax.model.quantized import fixed_scale
        from bertjax.quantize.training import first_scales

        fixed = {site: fixed_scale(one)[0] for site, one in self.ranges or () if one.low is not None}
        weights = first_scales(params, self.roundings(config, params), self.weight_range)
        return {"weights": weights, "inputs": {site: jnp.float32(scale) for site, scale in fixed.items()}}, {}

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        from bertjax.quantize.training import round_weights, rounding_product

        on = update.step >= round(self.delay * update.total)
        rounded = round_weights(params, self.roundings(update.config, params), extra.get("weights"))
        return rounded, Forward(product=rounding_product(dict(self.ranges or ()), on, extra.get("inputs")))

    def finish(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> tuple[BertConfig, Tree]:
        """The model in integers."""
        from bertjax.model.sites import has_site
        from bertjax.quantize.training import learned_ranges, quantise_trained

        ranges = dict(self.ranges or ())
        if self.learned:
            ranges = learned_ranges(ranges, extra.get("inputs", {}))
        ranges = {site: one for site, one in ranges.items() if has_site(config, site)}
        described = config.replace(quantization=Quantization(activations=tuple(ranges.items())))
        return quantise_trained(described, params, self.roundings(config, params), extra.get("weights"))

    def roundings(self, config: BertConfig, params: Tree) -> Any:
        from bertjax.quantize.training import roundings_of

        return roundings_of(config, params, self.weights)
