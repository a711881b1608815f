"""Importance scores of heads, neurons and layers, by several criteria that disagree.

*Importance* is the gradient of the loss with respect to a gate on the part (Michel et al. 2019, eq. 2). It is the mean
over examples of the magnitude, so that opposite signs do not cancel. Two widely used implementations compute something
else; they are available as forms. *Magnitude* uses the weights alone, and *activity* the outputs of the part on real
text. *Random* is the baseline: a criterion that does not beat it has no information.

Scores are per parameter group, because `surgery` prunes groups. Where several depth steps share a group, one gate
stands for all of them. Padding is excluded.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bertjax.errors import UserError
from bertjax.learn.losses import Batch, WeightedSum
from bertjax.model import BertConfig, BertModel, LayerGates
from bertjax.model.products import plain_product
from bertjax.model.sites import real_rows
from bertjax.model.tokens import Hide, rule_of
from bertjax.params import Tree, flatten
from bertjax.prune.surgery import group_sizes

Part = Literal["heads", "neurons"]
Form = Literal["paper", "official", "transformers"]
Loss = Callable[[Any, Batch], WeightedSum]
"""`(output, batch) -> (weighted sum, weight)`, a sum over examples."""
Scores = dict[int, np.ndarray]
"""For each group, the score of each of its parts; the lowest are pruned first."""
OWNER: dict[Part, str] = {"heads": "attention", "neurons": "ffn"}
"""The submodule of a group that holds the parts."""


def importance(
    model: BertModel, params: Tree, batches: Iterable[Batch], loss: Loss, part: Part = "heads", form: Form = "paper"
) -> Scores:
    """Gradient-based importance; each group's scores are divided by their l2 norm.

    Forms, of heads:
      paper: the mean over examples of |dL/dgate|.
      official: the authors' code. The sum over positions and examples of |context . dL/dcontext|, with the magnitude
        taken at each position, divided by the number of tokens, or in the last layer by the number of examples.
      transformers: `run_bertology`, with its batches of one. Gradients are not reset between examples, so the magnitude
        of the running sum is accumulated. It is divided by the number of tokens and finally scaled to 0..1 over all
        layers.

    Raises:
      UserError: No batches, or another form than the paper's for neurons.
    """
    if part == "neurons" and form != "paper":
        raise UserError(f"form={form} is defined for heads only; for neurons use form=paper.")
    gradients, tokens = [], 0.0
    for batch in batches:
        arrays = {name: jnp.asarray(array) for name, array in batch.items()}
        real = np.asarray(batch["weights"]) > 0
        gradients.append([g[real] for g in jax.device_get(gate_gradients(model, params, arrays, loss, part, form))])
        tokens += float(np.asarray(batch["attention_mask"])[real].sum())
    if not gradients:
        raise UserError("the importance scores got no batches; give at least one batch of labelled examples.")
    steps = [np.concatenate(one).astype(np.float64) for one in zip(*gradients, strict=True)]
    groups = [getattr(step, OWNER[part]) for step in model.config.depth_steps()]
    if form == "official":
        counts = [tokens] * (len(steps) - 1) + [len(steps[-1])]
        by_group = sum_by_group(groups, [one.sum(axis=0) / count for one, count in zip(steps, counts, strict=True)])
    elif form == "paper":
        by_group = {group: np.abs(one).mean(axis=0) for group, one in sum_by_group(groups, steps).items()}
    else:
        running = {group: np.abs(np.cumsum(one, axis=0)) for group, one in sum_by_group(groups, steps).items()}
        by_group = {group: one.sum(axis=0) / tokens for group, one in running.items()}
    scores = {group: one / (np.linalg.norm(one) + 1e-20) for group, one in by_group.items()}
    if form == "transformers":
        together = np.concatenate(list(scores.values()))
        low, high = together.min(), together.max()
        scores = {group: (one - low) / (high - low) for group, one in scores.items()}
    return scores


def sum_by_group(groups: list[Any], steps: list[np.ndarray]) -> Scores:
    """The sum over the depth steps that use each group."""
    sums: Scores = {}
    for group, one in zip(groups, steps, strict=True):
        sums[group] = sums.get(group, 0.0) + one
    return dict(sorted(sums.items()))


def layer_importance(model: BertModel, params: Tree, batches: Iterable[Batch], loss: Loss) -> np.ndarray:
    """The mean over examples of |dL/dgate| for each depth step [steps]. A gate of 0 turns the step into the
    identity."""
    total, examples = np.zeros(len(model.config.depth_steps())), 0
    for batch in batches:
        arrays = {name: jnp.asarray(array) for name, array in batch.items()}
        gradients = jax.device_get(gate_gradients(model, params, arrays, loss, "layer", "paper"))
        total += np.abs(np.stack(gradients)).sum(axis=1)
        examples += int((np.asarray(batch["weights"]) > 0).sum())
    return total / max(examples, 1)


@partial(jax.jit, static_argnames=("model", "loss", "part", "form"))
def gate_gradients(model: BertModel, params: Tree, batch: Any, loss: Loss, part: str, form: str) -> list[Array]:
    """For each depth step, the gradient of each example's own loss with respect to the gates [examples, parts].

    The form "official" has a gate at each position and returns the sum of their magnitudes.
    """
    by_position, length = form == "official", batch["input_ids"].shape[1]
    options: dict[str, Any] = {}
    if by_position:  # a product other than `plain_product` keeps the [CLS] row with the others (`split_cls_row`)
        model = type(model)(model.config.replace(remat=False), lambda *arguments: plain_product(*arguments))
        if model.config.retention:  # every position has a gate in every layer
            options = {"token_rule": rule_of(model.config.retention, Hide)}

    def shape(step: Any) -> tuple[int, ...]:
        counts = {"heads": (step.num_attention_heads,), "neurons": (step.intermediate_size,), "layer": ()}[part]
        return (1, length, *counts) if by_position else counts

    def of_one(factors: list[Array], row: Any) -> Array:
        one = {name: array[None] for name, array in row.items()}
        gates = [LayerGates(**{part: factor}) for factor in factors]
        inputs = one["input_ids"], one["attention_mask"], one["token_type_ids"]
        output = model.apply({"params": params}, *inputs, gates=gates, **options)
        return loss(output, one)[0]

    ones = [jnp.ones(shape(step)) for step in model.config.depth_steps()]
    gradients = jax.vmap(jax.grad(of_one), in_axes=(None, 0))(ones, batch)
    return [jnp.abs(one).sum(axis=(1, 2)) for one in gradients] if by_position else gradients


def magnitude(config: BertConfig, params: Tree, part: Part = "heads") -> Scores:
    """Magnitude scores, from weights alone. Heads: the l2 norm of their query, key, value and output weights. Neurons:
    the product of the norms of their input and output weights."""
    flat, scores = flatten(params), {}
    for group, count in group_sizes(config, OWNER[part]).items():
        path = f"encoder/layer_{group}/{OWNER[part]}"
        if not count:
            continue
        if part == "neurons":
            scores[group] = strength(flat[f"{path}/intermediate/kernel"], flat[f"{path}/output/kernel"])
            continue
        kernels = [np.asarray(flat[f"{path}/{name}/kernel"]) for name in ("query", "key", "value")]
        kernels.append(np.asarray(flat[f"{path}/output/kernel"]).T)
        squares = sum(np.square(kernel).reshape(-1, count, config.head_size).sum(axis=(0, 2)) for kernel in kernels)
        scores[group] = np.sqrt(squares)
    return scores


def strength(inner: Any, outer: Any) -> np.ndarray:
    """For each neuron, the norm of its input weights times the norm of its output weights."""
    return np.linalg.norm(inner, axis=0) * np.linalg.norm(outer, axis=1)


class Activity(NamedTuple):
    """Mean and variance of the activity of each part of a group, over the real tokens."""

    mean: np.ndarray
    variance: np.ndarray


def activity(model: BertModel, params: Tree, batches: Iterable[Batch], part: Part = "heads") -> dict[int, Activity]:
    """The activity of each part on real tokens: the activation of a neuron, or the l2 norm of a head's context
    vector."""
    sizes = group_sizes(model.config, OWNER[part])
    groups = [group for step in model.config.depth_steps() if sizes[group := getattr(step, OWNER[part])]]
    total: dict[int, Any] = {}
    for batch in batches:
        arrays = {name: jnp.asarray(array) for name, array in batch.items()}
        for group, sums in zip(groups, jax.device_get(activity_sums(model, params, arrays, part)), strict=True):
            total[group] = total.get(group, 0.0) + sums.astype(np.float64)
    activities = {}
    for group, (count, sums, squares) in sorted(total.items()):
        mean = sums / count
        activities[group] = Activity(mean, squares / count - np.square(mean))
    return activities


@partial(jax.jit, static_argnames=("model", "part"))
def activity_sums(model: BertModel, params: Tree, batch: Any, part: Part) -> list[Float[Array, "3 parts"]]:
    """Number of tokens, sum and sum of squares of each part, for every depth step that has any."""
    statistics: dict[str, Array] = {}
    site = f"{OWNER[part]}/output"

    def product(name: str, subscripts: str, left: Array, right: Any) -> Array:
        if name.endswith(site):
            real = real_rows(model.config, name, batch["attention_mask"]) & (batch["weights"][:, None] > 0)
            x = left.astype(jnp.float32)
            if part == "heads":
                x = jnp.linalg.norm(x.reshape(*x.shape[:2], -1, model.config.head_size), axis=-1)
            x = jnp.where(real[..., None], x, 0.0)
            count = jnp.broadcast_to(real.sum(), x.shape[-1:]).astype(jnp.float32)
            statistics[name] = jnp.stack([count, x.sum(axis=(0, 1)), jnp.square(x).sum(axis=(0, 1))])
        return plain_product(name, subscripts, left, right)

    observed = type(model)(model.config.replace(remat=False), product)
    observed.apply({"params": params}, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    sites = [f"step_{number}/{site}" for number in range(len(model.config.depth_steps()))]
    return [statistics[one] for one in sites if one in statistics]


def random(config: BertConfig, part: Part = "heads", seed: int = 0) -> Scores:
    """Uniform random scores, the baseline."""
    rng = np.random.default_rng(seed)
    return {group: rng.random(count) for group, count in group_sizes(config, OWNER[part]).items()}
