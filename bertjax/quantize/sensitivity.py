"""Sensitivity: how much each block of a model suffers from fewer bits, measured before any training.

There are two methods. *Curvature* (Q-BERT, Shen et al. 2020, section 3.1): near trained parameters the loss rises
according to its Hessian, so a block whose Hessian has a large top eigenvalue needs more bits. It needs no choice of
rounding and costs about ten Hessian-vector products per block and subset, but it sees one direction only and assumes
small steps. *Measurement*: quantise one block and evaluate the loss. It costs one pass per block and choice and uses
the rounding that will be deployed, but on a small data set the differences are lost in noise.

A block is a regex over parameter paths: `encoder/layer_3/` is a layer with its biases and LayerNorms, as in Q-BERT. A
loss is a function `(params, batch) -> (weighted sum, weight)` without dropout, whose weight depends on the batch alone.
Results are for the mean loss over all batches of a subset, however the subset is divided into batches.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bertjax.errors import UserError
from bertjax.learn.losses import Batch, WeightedSum
from bertjax.params import Tree, assign, flatten, map_with_path

Loss = Callable[[Tree, Batch], WeightedSum]
Name = TypeVar("Name", bound=Hashable)

SUBSETS = 10
"""The minimum, as in Q-BERT: the standard deviation of fewer eigenvalues is too uncertain."""


class Eigenvalue(NamedTuple):
    """The eigenvalue of largest magnitude, with its sign."""

    value: float
    iterations: int
    converged: bool
    """True if it changed by less than the tolerance before the iterations ran out."""
    residual: float
    """|Hv - value v| for the unit vector v. Some eigenvalue is at most this far from `value`; the stopping rule gives
    no such bound."""


class Sensitivity(NamedTuple):
    """The top eigenvalues of one block on several subsets of the data, and their statistics."""

    eigenvalues: tuple[Eigenvalue, ...]

    @property
    def mean(self) -> float:
        return float(np.mean([one.value for one in self.eigenvalues]))

    @property
    def std(self) -> float:
        """The population standard deviation over the subsets."""
        return float(np.std([one.value for one in self.eigenvalues]))

    @property
    def omega(self) -> float:
        """|mean| + std (Q-BERT, eq. 2): the larger, the more bits the block needs."""
        return abs(self.mean) + self.std

    @property
    def negative(self) -> int:
        """The number of subsets with a negative top eigenvalue. If the signs differ between subsets, both ends of the
        spectrum have about the same magnitude, and `std` contains the distance between them."""
        return sum(one.value < 0 for one in self.eigenvalues)

    @property
    def unconverged(self) -> int:
        """The number of subsets on which the iterations ran out."""
        return sum(not one.converged for one in self.eigenvalues)


def sensitivities(
    loss: Loss,
    params: Tree,
    blocks: Mapping[Name, str],
    subsets: Sequence[Sequence[Batch]],
    *,
    tolerance: float = 1e-2,
    iterations: int = 100,
    seed: int = 0,
) -> dict[Name, Sensitivity]:
    """The sensitivity of every block, a regex over parameter paths, on at least ten subsets of the training data.

    Power iteration with exact Hessian-vector products within the block; all other parameters are constant. It stops
    when the Rayleigh quotient changes by less than the fraction `tolerance` (1e-2 as in the authors' code, which has no
    limit of iterations). The start vector is normal, drawn from `seed`, and the same for every subset.

    All blocks and subsets share one compiled program per batch shape, because a block is a mask on the direction. The
    price is that gradients of all parameters are computed for each block.

    Raises:
      UserError: Fewer than ten subsets, or one without weight; a regex that matches nothing; curvature that is not
        finite.
    """
    if len(subsets) < SUBSETS:
        raise UserError(f"the sensitivity got {len(subsets)} subsets of the data; expected {SUBSETS} or more.")
    masks = {name: block_mask(pattern, params) for name, pattern in blocks.items()}
    products = Products(loss, params)
    start = random_direction(params, seed)
    return {
        name: Sensitivity(
            tuple(top_eigenvalue(products, mask, subset, start, tolerance, iterations) for subset in subsets)
        )
        for name, mask in masks.items()
    }


def block_mask(pattern: str, params: Tree) -> Tree:
    """A scalar per parameter array: 1 in the block, 0 elsewhere."""
    inside = assign([(pattern, 1.0)], params, 0.0)
    return map_with_path(lambda path, leaf: np.float32(inside[path]), params)


def random_direction(params: Tree, seed: int) -> Tree:
    """Standard normal values in the shape of the parameters."""
    rng = np.random.default_rng(seed)
    return map_with_path(lambda path, leaf: rng.standard_normal(leaf.shape, np.float32), params)


class Products:
    """Hessian-vector products within one block, in float32, compiled once per batch shape."""

    def __init__(self, loss: Loss, params: Tree):
        self._params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)

        def product(params: Tree, mask: Tree, direction: Tree, batch: Batch) -> tuple[Tree, Array]:
            gradient = jax.grad(loss, has_aux=True)
            inside = jax.tree.map(jnp.multiply, mask, direction)
            _, image, weight = jax.jvp(lambda p: gradient(p, batch), (params,), (inside,), has_aux=True)
            return jax.tree.map(jnp.multiply, mask, image), weight

        self._product, self._add = jax.jit(product), jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))

    def __call__(self, mask: Tree, direction: Tree, batches: Sequence[Batch]) -> Tree:
        """The product with the Hessian of the mean loss over all batches."""
        total: Any = None
        for batch in batches:
            one = self._product(self._params, mask, direction, batch)
            total = one if total is None else self._add(total, one)
        if total is None or not total[1] > 0:
            raise UserError(
                "a subset of the data has no labelled example (the sum of its weights is 0); give one or more."
            )
        return _scaled(total[0], 1 / total[1])


def top_eigenvalue(
    products: Products, mask: Tree, batches: Sequence[Batch], start: Tree, tolerance: float, iterations: int
) -> Eigenvalue:
    """Power iteration (von Mises) within the block of `mask`, starting at `start`.

    If both ends of the spectrum have about the same magnitude, it alternates between them and the residual stays large.
    """
    vector: Tree = jax.tree.map(jnp.multiply, mask, start)
    vector = _scaled(vector, 1 / jnp.sqrt(_dot(vector, vector)))
    value, residual = np.inf, np.inf
    for count in range(1, iterations + 1):
        image = products(mask, vector, batches)
        quotient, square = float(_dot(vector, image)), float(_dot(image, image))
        if not np.isfinite(square):
            raise UserError(
                "the curvature of the loss is not finite; check parameters and data for NaN or infinite values."
            )
        change, value = abs(quotient - value), quotient
        residual = float(np.sqrt(max(square - quotient**2, 0.0)))
        if square == 0.0 or change < tolerance * abs(value):
            return Eigenvalue(value, count, True, residual)
        vector = _scaled(image, 1 / np.float32(np.sqrt(square)))
    return Eigenvalue(value, iterations, False, residual)


@jax.jit
def _dot(a: Tree, b: Tree) -> Float[Array, ""]:
    return sum((jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), jnp.float32(0))


@jax.jit
def _scaled(tree: Tree, factor: Any) -> Tree:
    return jax.tree.map(lambda leaf: leaf * factor, tree)


def loss_increases(
    loss: Loss, params: Tree, batches: Sequence[Batch], transforms: Mapping[Name, Callable[[Tree], Tree]]
) -> dict[Name, float]:
    """The increase of the mean loss over the batches under each transform alone; negative if the loss falls.

    Each transform quantises one block in one way; its key may be `(block, bits)`.
    """
    compiled = jax.jit(loss)

    def mean(params: Tree) -> float:
        sums = np.array([compiled(params, batch) for batch in batches], np.float64).sum(axis=0)
        return float(sums[0] / sums[1])

    before = mean(params)
    return {name: mean(transform(params)) - before for name, transform in transforms.items()}


def squared_change(params: Tree, changed: Tree) -> float:
    """||W - Q(W)||^2 over all parameters. Multiplied by omega of the quantised block, it is the cost of quantising it
    in HAWQ (Dong et al. 2019, eq. 9)."""
    pairs = zip(flatten(params).values(), flatten(changed).values(), strict=True)
    return float(sum(np.sum(np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64))) for a, b in pairs))
