"""Activation ranges, from calibration examples.

The model with integer weights and float activations is run on the calibration examples. The input range of every
product with an integer matrix is recorded over all real tokens; padding is excluded. The ranges are then fixed, so an
example's output does not depend on the other examples in its batch. The alternative is a dynamic range per token: it
needs no calibration and follows every outlier, but costs a reduction per product, and few runtimes support it.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bertjax.errors import UserError
from bertjax.model import BertModel
from bertjax.model.products import plain_product
from bertjax.model.quantized import fixed_scale
from bertjax.model.sites import real_rows
from bertjax.params import Tree
from bertjax.quantized.formats import Activation
from bertjax.quantized.tensor import Quantized

Calibrate = Literal["min_max", "moving_average", "percentile", "least_squares"]
"""min_max: the extremes over all examples. moving_average: an exponential moving average of each batch's extremes.
percentile: the mean over batches of each batch's range without a ten-thousandth of its values. least_squares: the
fraction of the extremes with the smallest squared rounding error."""
DECAY = 0.9
SHARE = 0.9999
FRACTIONS = tuple(1 - i / 40 for i in range(36))
Ends = tuple[float, float]
Batch = tuple[Any, Any, Any]
"""Ids, mask and types."""


def find_ranges(
    model: BertModel,
    params: Tree,
    batches: Iterable[tuple[Any, Any, Any]],
    how: Calibrate = "percentile",
    bits: int = 8,
) -> dict[str, Activation]:
    """The calibrated `Activation` of every site whose product reads an integer matrix. Batches are (ids, mask, token
    types)."""
    if model.config.recurrence:
        raise UserError(
            "a recurrent model has no fixed activation ranges, because they differ between its steps; use dynamic "
            "ranges per token (--activations=token)."
        )
    batches = list(batches)
    share = SHARE if how == "percentile" else 1.0
    ranges: dict[str, Ends] = {}
    for seen, batch in enumerate(batches):
        ends = jax.device_get(_watched(model, params, *batch, statistic="ends", argument=share))
        for site, new in ends.items():
            ranges[site] = combined(how, ranges.get(site), (float(new[0]), float(new[1])), seen)
    if how == "least_squares":
        ranges = best_fractions(model, params, batches, ranges, bits)
    return {site: Activation(bits, min(low, 0.0), max(high, 0.0)) for site, (low, high) in ranges.items()}


def shares_outside(model: BertModel, params: Tree, batches: Iterable[tuple[Any, Any, Any]]) -> dict[str, float]:
    """For each site, the fraction of its input values that these batches have outside its fixed range."""
    assert model.config.quantization is not None
    fixed = {site: a for site, a in model.config.quantization.activations if a.low is not None}
    ranges = tuple((site, (a.low, a.high)) for site, a in fixed.items())
    counts = watched_over(model, params, batches, "outside", ranges, lambda a, b: jax.tree.map(np.add, a, b))
    return {site: float(counts[site][0] / counts[site][1]) for site in fixed}


def combined(how: Calibrate, old: Ends | None, new: Ends, seen: int) -> Ends:
    """The range after one more batch; `seen` is the number of batches before it."""
    if old is None:
        return new
    if how in ("min_max", "least_squares"):
        return min(old[0], new[0]), max(old[1], new[1])
    decay = DECAY if how == "moving_average" else seen / (seen + 1)
    return decay * old[0] + (1 - decay) * new[0], decay * old[1] + (1 - decay) * new[1]


def best_fractions(
    model: BertModel, params: Tree, batches: list[tuple[Any, Any, Any]], widest: dict[str, Ends], bits: int
) -> dict[str, Ends]:
    """Each range times the fraction with the smallest squared rounding error over all batches."""
    candidates = tuple(
        (site, tuple(fixed_scale(Activation(bits, min(low, 0) * f, max(high, 0) * f)) for f in FRACTIONS))
        for site, (low, high) in widest.items()
    )
    errors: dict[str, Any] = {}
    for batch in batches:
        new = jax.device_get(_watched(model, params, *batch, statistic="errors", argument=(bits, candidates)))
        errors = {site: new[site] + errors.get(site, 0.0) for site in new}
    best = {site: FRACTIONS[int(total.argmin())] for site, total in errors.items()}
    return {site: (low * best[site], high * best[site]) for site, (low, high) in widest.items()}


def watched(
    model: BertModel,
    params: Tree,
    ids: Int[Array, "b l"],
    mask: Int[Array, "b l"],
    types: Int[Array, "b l"],
    statistic: str,
    argument: Any,
) -> dict[str, Any]:
    """A statistic of the input of each product that reads an integer matrix, by site."""
    statistics: dict[str, Any] = {}

    def product(site: str, subscripts: str, left: Array, right: Any) -> Array:
        if subscripts != "lookup" and isinstance(right, Quantized):
            rows = real_rows(model.config, site, mask) if left.ndim == 3 else (mask > 0).any(axis=1)
            statistics[site] = STATISTICS[statistic](left.astype(jnp.float32), rows[..., None], site, argument)
        return plain_product(site, subscripts, left, right)

    # Values inside rematerialised layers are tracers that must not leave them.
    model = type(model)(model.config.replace(remat=False), product)
    model.apply({"params": params}, ids, mask, types)
    return statistics


def watched_over(
    model: BertModel,
    params: Tree,
    batches: Iterable[Batch],
    statistic: str,
    argument: Any,
    combine: Callable[[Any, Any], Any],
) -> dict[str, Any]:
    """A statistic of the inputs of each product over several batches, by site, in float64."""
    found: dict[str, Any] = {}
    for batch in batches:
        new = jax.device_get(_watched(model, params, *batch, statistic=statistic, argument=argument))
        new = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), new)
        found = {site: combine(found[site], one) if site in found else one for site, one in new.items()}
    return found


_watched = jax.jit(watched, static_argnames=("model", "statistic", "argument"))


def ends(x: Float[Array, "*rows d"], real: Bool[Array, "*rows 1"], site: str, share: float) -> tuple[Array, Array]:
    """Minimum and maximum over real tokens, without the (1 - share) / 2 most extreme values on either side."""
    del site
    if share == 1.0:
        return jnp.min(x, where=real, initial=jnp.inf), jnp.max(x, where=real, initial=-jnp.inf)
    x = jnp.where(real, x, jnp.nan)
    return jnp.nanquantile(x, (1 - share) / 2), jnp.nanquantile(x, (1 + share) / 2)


def errors(
    x: Float[Array, "*rows d"], real: Bool[Array, "*rows 1"], site: str, argument: tuple[int, Any]
) -> Float[Array, "fractions"]:
    """The squared rounding error over real tokens, for each candidate (scale, zero point) of the site."""
    bits, candidates = argument
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def error(pair: Array) -> Array:
        scale, zero = pair
        rounded = (jnp.clip(jnp.round(x / scale) + zero, lowest, highest) - zero) * scale
        return jnp.sum(jnp.square(x - rounded), where=real)

    return jax.lax.map(error, jnp.asarray(dict(candidates)[site], jnp.float32))


def outside(x: Float[Array, "*rows d"], real: Bool[Array, "*rows 1"], site: str, ranges: Any) -> tuple[Array, Array]:
    """The number of values of real tokens outside the site's range, and the number of values."""
    low, high = dict(ranges).get(site, (-jnp.inf, jnp.inf))
    return jnp.sum((x < low) | (x > high), where=real), jnp.sum(real) * x.shape[-1]


def largest(x: Float[Array, "*rows d"], real: Bool[Array, "*rows 1"], site: str, argument: None) -> Float[Array, " d"]:
    """The largest magnitude of each channel over real tokens."""
    del site, argument
    return jnp.max(jnp.abs(x), axis=tuple(range(x.ndim - 1)), where=real, initial=0.0)


def sums(
    x: Float[Array, "*rows d"], real: Bool[Array, "*rows 1"], site: str, ranges: Any
) -> tuple[Float[Array, " d"], Float[Array, " d"], Int[Array, ""]]:
    """The sums of each channel, clipped to the site's range, and of its rounded values, over real tokens; and their
    number."""
    activation = dict(ranges)[site]
    (scale, zero), half = fixed_scale(activation), 2 ** (activation.bits - 1)
    rounded = (jnp.clip(jnp.round(x / scale) + zero, -half, half - 1) - zero) * scale
    clipped = jnp.clip(x, (-half - zero) * scale, (half - 1 - zero) * scale)
    rows = tuple(range(x.ndim - 1))
    return jnp.sum(clipped, rows, where=real), jnp.sum(rounded, rows, where=real), jnp.sum(real)


STATISTICS: dict[str, Callable[..., Any]] = {
    "ends": ends,
    "errors": errors,
    "outside": outside,
    "largest": largest,
    "sums": sums,
}
