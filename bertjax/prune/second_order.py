"""Second-order structured pruning: heads and neurons are removed, and the weights that remain make up for them (ZipLM,
Kurtic, Frantar, Alistarh 2023).

The output product of an attention or feed-forward layer maps inputs x to W^T x. On real text, the sum of x x^T over
tokens (H) tells how large an error each removal makes in that output, and how the remaining rows of W must change to
make it smallest. The heads or neurons of one matrix are removed one at a time, the cheapest first, because two that
stand in for each other are cheap alone and expensive together. The result is a curve: the output error for every number
that remains.

The trade-off: no gradients and no labels are needed, and a pruned model is far better before any fine-tuning than one
whose weights stay as they were. It takes memory for a matrix of inputs x inputs per layer (75 MB for 3072 neurons), and
the errors are those of single layers, blind to what later layers do with them. Kernels are (in, out), the transpose of
the paper's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bertjax.errors import UserError
from bertjax.learn.losses import Batch
from bertjax.model import BertConfig, BertModel
from bertjax.model.products import plain_product
from bertjax.model.sites import real_rows
from bertjax.params import Tree, flatten, unflatten
from bertjax.prune.scores import OWNER, Loss, Part
from bertjax.prune.surgery import check_prunable, group_sizes, keep_heads, keep_neurons

DAMPING = 1e-2
"""What is added to the diagonal of H, as a fraction of its mean: inputs that are nearly combinations of others would
otherwise make the correction very large. The value is that of GPTQ (Frantar et al. 2022)."""
BATCH = 64
"""How many rows are eliminated between two updates of a whole matrix."""

Products = Mapping[Part, Mapping[int, np.ndarray]]
"""For heads and for neurons, the sum of x x^T of every parameter group."""
Sizes = Mapping[Part, Mapping[int, int]]
"""For heads and for neurons, how many remain in each parameter group."""


def input_products(model: BertModel, params: Tree, batches: Sequence[Batch]) -> dict[Part, dict[int, np.ndarray]]:
    """For each group, the sum over real tokens of x x^T, where x is the input of the output product of attention
    ("heads") or of the feed-forward layer ("neurons"). Depth steps that share a group are summed. Groups without heads
    or neurons have none.

    Raises:
      UserError: No batches, or a model that cannot be pruned.
    """
    check_prunable(model.config, params)
    if not batches:
        raise UserError("no batches: the inputs of layers are measured on text; give at least one batch of examples.")
    total: dict[Part, dict[int, np.ndarray]] = {"heads": {}, "neurons": {}}
    for batch in batches:
        arrays = {name: jnp.asarray(array) for name, array in batch.items()}
        for part, sums in jax.device_get(batch_products(model, params, arrays)).items():
            for group, one in sums.items():
                total[part][group] = total[part].get(group, 0.0) + one.astype(np.float64)
    return total


@partial(jax.jit, static_argnames="model")
def batch_products(model: BertModel, params: Tree, batch: Any) -> dict[Part, dict[int, Float[Array, "inputs inputs"]]]:
    """The products of one batch."""
    sums: dict[Part, dict[int, Array]] = {"heads": {}, "neurons": {}}
    sites: dict[str, tuple[Part, int]] = {
        f"step_{number}/{owner}/output": (part, getattr(step, owner))
        for number, step in enumerate(model.config.depth_steps())
        for part, owner in OWNER.items()
    }

    def product(name: str, subscripts: str, left: Array, right: Any) -> Array:
        if name in sites:
            part, group = sites[name]
            real = real_rows(model.config, name, batch["attention_mask"]) & (batch["weights"][:, None] > 0)
            x = jnp.where(real[..., None], left.astype(jnp.float32), 0.0).reshape(real.size, -1)
            one = jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST)
            sums[part][group] = sums[part][group] + one if group in sums[part] else one
        return plain_product(name, subscripts, left, right)

    observed = type(model)(model.config.replace(remat=False), product)
    observed.apply({"params": params}, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    return sums


@dataclass(frozen=True)
class RemovalCurve:
    """The removal of one kernel's structures (heads or neurons), in the order in which they go."""

    kernel: Float[np.ndarray, "inputs outputs"]
    products: Float[np.ndarray, "inputs inputs"]
    """H, damped."""
    order: np.ndarray
    """The structures, the first to be removed first."""
    errors: np.ndarray
    """The relative output error by the number that remains, from 0 (error 1) to all (error 0): the norm of the
    difference divided by the norm of the output. The damping counts as one more token for each input."""
    solved: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def kept(self, count: int) -> list[int]:
        """The `count` structures that remain, in ascending order."""
        return np.sort(self.order[len(self.order) - count :]).tolist()

    def corrected(self, count: int) -> Float[np.ndarray, "inputs outputs"]:
        """The kernel with zeros in the rows of removed structures and the least-squares solution in the others, where
        `count` structures remain. Solutions are kept for the next call."""
        if count == len(self.order):
            return self.kernel
        rows = rows_of(self.kept(count), len(self.kernel) // len(self.order))
        if count not in self.solved:
            target = self.products[rows] @ self.kernel
            solution = np.linalg.solve(self.products[np.ix_(rows, rows)], target)
            self.solved[count] = solution.astype(self.kernel.dtype)
        full = np.zeros_like(self.kernel)
        full[rows] = self.solved[count]
        return full


Curves = Mapping[Part, Mapping[int, RemovalCurve]]


def rows_of(structures: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """The rows of structures that have `size` rows each."""
    return (np.asarray(structures, int)[:, None] * size + np.arange(size)).ravel()


def removal_curves(
    config: BertConfig, params: Tree, products: Products, damping: float = DAMPING
) -> dict[Part, dict[int, RemovalCurve]]:
    """The curves of all attention and feed-forward output kernels for which there are products."""
    flat = flatten(params)
    return {
        part: {
            group: removal_curve(
                np.asarray(flat[f"encoder/layer_{group}/{OWNER[part]}/output/kernel"]),
                one,
                group_sizes(config, OWNER[part])[group],
                damping,
            )
            for group, one in of_part.items()
        }
        for part, of_part in products.items()
    }


def removal_curve(
    kernel: Float[np.ndarray, "inputs outputs"],
    products: Float[np.ndarray, "inputs inputs"],
    count: int,
    damping: float = DAMPING,
) -> RemovalCurve:
    """Removes all of the kernel's `count` structures, each of the same number of consecutive rows, one at a time."""
    mean = float(np.trace(products)) / len(products)
    damped = products.astype(np.float64) + (damping * mean if mean else 1.0) * np.eye(len(products))
    weights = kernel.astype(np.float64)
    size = len(kernel) // count
    table, remaining = np.hstack([np.linalg.inv(damped), weights]), np.arange(count)
    order: list[int] = []
    costs: list[float] = []
    while len(remaining):
        table, chosen, spent = eliminate(table, size, min(len(remaining), max(1, BATCH // size)))
        order += remaining[chosen].tolist()
        costs += spent
        remaining = np.delete(remaining, chosen)
    output = float(np.sum(weights * (damped @ weights))) or 1.0
    removed = np.cumsum([0.0, *costs])  # the errors add up, because each cost counts from the corrected weights
    return RemovalCurve(kernel, damped, np.array(order, int), np.sqrt(removed / output)[::-1])


def eliminate(table: np.ndarray, size: int, steps: int) -> tuple[np.ndarray, list[int], list[float]]:
    """Removes the `steps` cheapest structures of [H^-1 | W], one at a time. Returns the smaller table, and the removed
    structures with their costs.

    A structure S costs tr(W_S^T ((H^-1)_SS)^-1 W_S); its removal subtracts (H^-1)_:S ((H^-1)_SS)^-1 [H^-1 | W]_S from
    the table, which corrects the weights and eliminates S from the inverse (ZipLM). The costs need only
    the diagonal blocks of H^-1 and of W W^T, so that the whole table is updated once, after all steps.
    """
    inputs, count = len(table), len(table) // size
    inverse, weights = (one.reshape(count, size, -1) for one in (table[:, :inputs], table[:, inputs:]))
    diagonal = inverse.reshape(count, size, count, size)[np.arange(count), :, np.arange(count)]
    gram = weights @ transposed(weights)
    columns = np.empty((inputs, steps * size))
    pivots = np.empty((steps * size, table.shape[1]))
    chosen: list[int] = []
    costs: list[float] = []
    for step in range(steps):
        diagonal[chosen] = np.eye(size)  # what is left there is rounding errors
        cost = np.linalg.solve(diagonal, gram).trace(axis1=1, axis2=2)
        cost[chosen] = np.inf
        one = int(np.argmin(cost))
        own, new = (slice(place * size, (place + 1) * size) for place in (one, step))
        past, later = columns[:, : step * size], pivots[: step * size]
        rows = table[own] - past[own] @ later
        column = columns[:, new] = rows[:, :inputs].T
        pivot = pivots[new] = np.linalg.solve(rows[:, own], rows)
        change = pivot[:, inputs:]
        cross = table[:, inputs:] @ change.T - past @ (later[:, inputs:] @ change.T)
        by_structure = column.reshape(count, size, size)
        mixed = cross.reshape(count, size, size) @ transposed(by_structure)
        gram += by_structure @ (change @ change.T) @ transposed(by_structure) - mixed - transposed(mixed)
        diagonal -= by_structure @ pivot[:, :inputs].reshape(size, count, size).transpose(1, 0, 2)
        chosen.append(one)
        costs.append(float(max(cost[one], 0.0)))
    remaining = rows_of(np.delete(np.arange(count), chosen), size)
    kept = np.concatenate([remaining, np.arange(inputs, table.shape[1])])
    return table[np.ix_(remaining, kept)] - columns[remaining] @ pivots[:, kept], chosen, costs


def transposed(matrices: np.ndarray) -> np.ndarray:
    return matrices.transpose(0, 2, 1)


def with_corrected(params: Tree, sizes: Sizes, curves: Curves) -> Tree:
    """The parameters with corrected kernels of their full size, whose rows for removed parts are 0."""
    flat = flatten(params)
    for part, of_part in sizes.items():
        for group, count in of_part.items():
            flat[f"encoder/layer_{group}/{OWNER[part]}/output/kernel"] = curves[part][group].corrected(count)
    return unflatten(flat)


def remove(config: BertConfig, params: Tree, sizes: Sizes, curves: Curves) -> tuple[BertConfig, Tree]:
    """The model with these numbers of heads and neurons, and corrected output kernels. Groups without a number keep all
    of theirs."""
    kept = {
        part: {group: curves[part][group].kept(count) for group, count in one.items()} for part, one in sizes.items()
    }
    params = with_corrected(params, sizes, curves)
    return keep_neurons(*keep_heads(config, params, kept.get("heads", {})), kept.get("neurons", {}))


def calibration_loss(model: BertModel, batches: Sequence[Batch], loss: Loss) -> Callable[[Tree], float]:
    """The mean loss on the batches, as a function of the parameters."""

    @jax.jit
    def sums(params: Tree, batch: Any) -> Any:
        output = model.apply({"params": params}, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        return loss(output, batch)

    def mean(params: Tree) -> float:
        total, weight = np.array(jax.device_get([sums(params, batch) for batch in batches]), np.float64).sum(axis=0)
        return float(total / weight)

    return mean
