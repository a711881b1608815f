"""How the parameters of several layers are merged into those of one.

A merge is a function `(part, steps, trees) -> tree`: `part` is "attention" or "ffn", and `trees` hold its dense layers
at each of the depth steps `steps`. The mean and the first layer need the parameters alone; the least-squares fit weighs
them by their inputs on real text, and costs one forward pass over a sample. LayerNorms are always averaged.
"""

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bertjax.errors import UserError
from bertjax.model import BertConfig, build
from bertjax.model.products import plain_product
from bertjax.model.sites import real_rows
from bertjax.params import Tree, flatten, unflatten
from bertjax.text.batches import inputs_of

Merge = Callable[[str, Sequence[int], Sequence[Tree]], Tree]
RIDGE = 1e-2
"""Ridge penalty of the fit towards the mean, relative to the average square of an input. It decides in directions in
which the sample text has no inputs."""


def mean(part: str, steps: Sequence[int], trees: Sequence[Tree]) -> Tree:
    """The average of every array. Equal arrays stay unchanged."""
    del part, steps
    flat = [flatten(tree) for tree in trees]
    return unflatten(
        {path: np.mean([one[path] for one in flat], axis=0, dtype=np.float64).astype(np.float32) for path in flat[0]}
    )


def first(part: str, steps: Sequence[int], trees: Sequence[Tree]) -> Tree:
    """The first layer's arrays."""
    del part, steps
    return trees[0]


class LeastSquares:
    """A merge that minimises the change of every dense layer's outputs.

    For dense layer k of the steps i it minimises sum_i |X_i W - X_i W_i|^2, where X_i are the inputs of step i on
    sample text in the model before tying (with a column of ones for the bias). The solution needs only the Gram
    matrices G_i = X_i' X_i: W = (sum_i G_i)^-1 sum_i G_i W_i, a mean in which each layer is weighted by the directions
    of its inputs (the normal equations of RegMean, Jin et al. 2023, eq. 2).
    """

    def __init__(self, grams: dict[str, Float[np.ndarray, "i i"]]):
        self.grams = grams

    @classmethod
    def on_text(cls, config: BertConfig, params: Tree, batches: Iterable[dict[str, np.ndarray]]) -> "LeastSquares":
        """From batches of encoded text, as `eval_batches` makes them; a few hundred sentences are enough."""
        total: dict[str, np.ndarray] = {}
        step = jax.jit(lambda params, ids, mask, types: gram_matrices(config, params, ids, mask, types))
        for batch in batches:
            inputs = inputs_of(batch)
            for site, gram in jax.device_get(step(params, *inputs)).items():
                total[site] = total.get(site, 0.0) + gram.astype(np.float64)
        if not total:
            raise UserError("a least-squares merge needs sample text, and got no batches; give at least one batch.")
        return cls(total)

    def __call__(self, part: str, steps: Sequence[int], trees: Sequence[Tree]) -> Tree:
        return {name: self._dense(f"{part}/{name}", steps, [tree[name] for tree in trees]) for name in trees[0]}

    def _dense(self, name: str, steps: Sequence[int], layers: Sequence[Tree]) -> Tree:
        grams = [self.grams[f"step_{step}/{name}"] for step in steps]
        affine = [np.concatenate([layer["kernel"], layer["bias"][None]]).astype(np.float64) for layer in layers]
        ridge = RIDGE * np.mean([np.trace(gram) / len(gram) for gram in grams]) * np.eye(len(grams[0]))
        right = sum(gram @ own for gram, own in zip(grams, affine, strict=True)) + ridge @ np.mean(affine, axis=0)
        solution = np.linalg.solve(sum(grams) + ridge, right).astype(np.float32)
        return {"kernel": solution[:-1], "bias": solution[-1]}


def gram_matrices(
    config: BertConfig, params: Tree, ids: Int[Array, "b l"], mask: Int[Array, "b l"], types: Int[Array, "b l"]
) -> dict[str, Float[Array, "i i"]]:
    """The Gram matrix of the inputs of every dense layer of every depth step, by site. The inputs have a column of ones
    at the end, and padding is excluded."""
    grams: dict[str, Array] = {}

    def product(site: str, subscripts: str, left: Array, right: Array) -> Array:
        if site.startswith("step_") and right.ndim == 2:
            real = real_rows(config, site, mask)[..., None]
            rows = jnp.concatenate([left, jnp.ones_like(left[..., :1])], axis=-1).astype(jnp.float32) * real
            rows = rows.reshape(-1, rows.shape[-1])
            grams[site] = rows.T @ rows
        return plain_product(site, subscripts, left, right)

    model = build(config).clone(product=product)
    model.apply({"params": params}, ids, mask, types)
    return grams
