"""Which blocks of a model can bear fewer bits, found out before anything is trained.

Two ways, each with its price. *Curvature* (Q-BERT, Shen et al. 2020, section 3.1): around trained parameters the loss
rises like the Hessian says, so a block whose Hessian has a large top eigenvalue must keep its numbers exact. It needs
no choice of rounding, and some ten gradients of gradients per block and subset; but it knows one direction alone, and
small steps. *Measuring*: round one block, look at the loss. It costs one pass per block and choice and is of the very
rounding that will ship, but its small differences drown in the noise of a small data set.

A block is what a regex finds in the paths of the parameters; `encoder/layer_3/` is a layer with its biases and
LayerNorms, as in Q-BERT. A loss is a function `(params, batch) -> (weighted sum, weight)` without dropout, whose weight
depends on the batch alone. What is computed is the mean over all the batches of a subset, however they are cut.
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
"""As in Q-BERT: the spread of fewer eigenvalues says little."""


class Eigenvalue(NamedTuple):
    """Of largest magnitude, with its sign."""

    value: float
    iterations: int
    converged: bool
    """Whether it changed by less than the tolerance before the iterations ran out."""
    residual: float
    """|Hv - value v| of the unit vector v it was read from: some eigenvalue is this close to `value`, a bound that the
    rule of stopping is not."""


class Sensitivity(NamedTuple):
    """What the top eigenvalues of a block on several subsets of the data say together."""

    eigenvalues: tuple[Eigenvalue, ...]

    @property
    def mean(self) -> float:
        return float(np.mean([one.value for one in self.eigenvalues]))

    @property
    def std(self) -> float:
        """Over these subsets (divided by their number)."""
        return float(np.std([one.value for one in self.eigenvalues]))

    @property
    def omega(self) -> float:
        """|mean| + std (Q-BERT, eq. 2): the larger, the more bits."""
        return abs(self.mean) + self.std

    @property
    def negative(self) -> int:
        """Subsets whose largest eigenvalue is a negative one. Where some are and some are not, two ends of about the
        same size took turns, and `std` holds the distance between them."""
        return sum(one.value < 0 for one in self.eigenvalues)

    @property
    def unconverged(self) -> int:
        """Subsets on which the iterations ran out."""
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
    """The sensitivity of every block, a regex over parameter paths, on ten or more subsets of the training data.

    Power iteration on exact products with the Hessian of the block; all other parameters stay where they are. It ends
    when the Rayleigh quotient changes by less than `tolerance` of itself (1e-2 is what the authors' code has, which
    knows no limit of iterations). The start is normal, from `seed`, the same for every subset.

    All blocks and subsets share one program per shape of batch, for a block is a mask on the direction. The price is a
    gradient of everything for the sake of a part.

    Raises:
      UserError: Fewer than ten subsets, or one without weight; a regex that matches nothing; curvature that is no
        number.
    """
    if len(subsets) < SUBSETS:
        raise UserError(f"sensitivity got {len(subsets)} subsets of the data: expected {SUBSETS} or more.")
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
    """One number per parameter array: 1 in the block, 0 elsewhere."""
    inside = assign([(pattern, 1.0)], params, 0.0)
    return map_with_path(lambda path, leaf: np.float32(inside[path]), params)


def random_direction(params: Tree, seed: int) -> Tree:
    """A normal number for every parameter."""
    rng = np.random.default_rng(seed)
    return map_with_path(lambda path, leaf: rng.standard_normal(leaf.shape, np.float32), params)


class Products:
    """Products of one block of the Hessian with directions, in float32, compiled once per shape of batch."""

    def __init__(self, loss: Loss, params: Tree):
        self._params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)

        def product(params: Tree, mask: Tree, direction: Tree, batch: Batch) -> tuple[Tree, Array]:
            gradient = jax.grad(loss, has_aux=True)
            inside = jax.tree.map(jnp.multiply, mask, direction)
            _, image, weight = jax.jvp(lambda p: gradient(p, batch), (params,), (inside,), has_aux=True)
            return jax.tree.map(jnp.multiply, mask, image), weight

        self._product, self._add = jax.jit(product), jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))

    def __call__(self, mask: Tree, direction: Tree, batches: Sequence[Batch]) -> Tree:
        """The product with the Hessian of the mean loss over all the batches."""
        total: Any = None
        for batch in batches:
            one = self._product(self._params, mask, direction, batch)
            total = one if total is None else self._add(total, one)
        if total is None or not total[1] > 0:
            raise UserError("a subset of the data has no weight: it needs at least one labelled example.")
        return _scaled(total[0], 1 / total[1])


def top_eigenvalue(
    products: Products, mask: Tree, batches: Sequence[Batch], start: Tree, tolerance: float, iterations: int
) -> Eigenvalue:
    """Power iteration (von Mises) in the block of `mask`, from `start`.

    Where the two ends of the spectrum are about equally far from 0, it turns between them: the residual stays large.
    """
    vector: Tree = jax.tree.map(jnp.multiply, mask, start)
    vector = _scaled(vector, 1 / jnp.sqrt(_dot(vector, vector)))
    value, residual = np.inf, np.inf
    for count in range(1, iterations + 1):
        image = products(mask, vector, batches)
        quotient, square = float(_dot(vector, image)), float(_dot(image, image))
        if not np.isfinite(square):
            raise UserError("the curvature of the loss is no finite number: the parameters or the data hold one such.")
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
    """By how much the mean loss over the batches rises under each transform alone; below 0 where it falls.

    A transform rounds one block in one way and leaves the rest, so its name may be `(block, bits)`.
    """
    compiled = jax.jit(loss)

    def mean(params: Tree) -> float:
        sums = np.array([compiled(params, batch) for batch in batches], np.float64).sum(axis=0)
        return float(sums[0] / sums[1])

    before = mean(params)
    return {name: mean(transform(params)) - before for name, transform in transforms.items()}


def squared_change(params: Tree, changed: Tree) -> float:
    """||W - Q(W)||^2 over all parameters. Times omega of the block that was rounded, it is the cost of rounding it in
    HAWQ (Dong et al. 2019, eq. 9)."""
    pairs = zip(flatten(params).values(), flatten(changed).values(), strict=True)
    return float(sum(np.sum(np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64))) for a, b in pairs))
