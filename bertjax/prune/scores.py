"""How much a part of a model is worth, by several measures that do not agree.

*Importance* is the loss's gradient with respect to a gate on the part (Michel et al. 2019, eq. 2): the mean over
examples of its magnitude, because an example that wants a head more and one that wants it less must not cancel. Two
programs that are usually meant by it compute something else, and are here under their names. *Magnitude* looks at
weights alone, *activity* at what a part says to real text, and *random* at nothing: a measure that does not beat it
has measured nothing.

Scores are by group of parameters, as `surgery` takes parts out by group; of a group that several depth steps use, one
gate stands for all of them. Padding never counts.
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
from bertjax.params import Tree, flatten
from bertjax.prune.surgery import group_sizes

Part = Literal["heads", "neurons"]
Form = Literal["paper", "official", "transformers"]
Loss = Callable[[Any, Batch], WeightedSum]
"""`(output, batch) -> (weighted sum, weight)`, where the sum is over examples."""
Scores = dict[int, np.ndarray]
"""For each group the score of each of its parts; higher stays longer."""
OWNER = {"heads": "attention", "neurons": "ffn"}
"""The part of a group in which they are."""


def importance(
    model: BertModel, params: Tree, batches: Iterable[Batch], loss: Loss, part: Part = "heads", form: Form = "paper"
) -> Scores:
    """Gradient-based importance, each group's scores divided by their l2 norm.

    Forms, of heads:
      paper: the mean over examples of |dL/dgate|.
      official: the sum over positions and examples of |context . dL/dcontext|, the magnitude of each position by
        itself, divided by the number of tokens; of the last layer, by the number of examples (the authors' code).
      transformers: gradients are never set to zero between examples, so what is summed up is the magnitude of the
        running sum; divided by the number of tokens, and at the end moved to 0 to 1 over all layers (`run_bertology`,
        with its batches of one).

    Raises:
      UserError: No batches, or neurons in another form than the paper's.
    """
    if part == "neurons" and form != "paper":
        raise UserError(f"form={form}: that is about heads; neurons have the paper's alone.")
    found, tokens = [], 0.0
    for batch in batches:
        given = {name: jnp.asarray(array) for name, array in batch.items()}
        counted = np.asarray(batch["weights"]) > 0
        found.append([g[counted] for g in jax.device_get(gate_gradients(model, params, given, loss, part, form))])
        tokens += float(np.asarray(batch["attention_mask"])[counted].sum())
    if not found:
        raise UserError("importance got no batches: it needs labelled examples.")
    steps = [np.concatenate(one).astype(np.float64) for one in zip(*found, strict=True)]
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
        every = np.concatenate(list(scores.values()))
        scores = {group: (one - every.min()) / (every.max() - every.min()) for group, one in scores.items()}
    return scores


def sum_by_group(groups: list[Any], steps: list[np.ndarray]) -> Scores:
    """The sum of each group over the depth steps that use it."""
    found: Scores = {}
    for group, one in zip(groups, steps, strict=True):
        found[group] = found.get(group, 0.0) + one
    return dict(sorted(found.items()))


def layer_importance(model: BertModel, params: Tree, batches: Iterable[Batch], loss: Loss) -> np.ndarray:
    """The mean over examples of |dL/dgate| of each depth step as a whole [steps]: by 0 it would hand on its input."""
    total, examples = np.zeros(len(model.config.depth_steps())), 0
    for batch in batches:
        given = {name: jnp.asarray(array) for name, array in batch.items()}
        found = jax.device_get(gate_gradients(model, params, given, loss, "layer", "paper"))
        total += np.abs(np.stack(found)).sum(axis=1)
        examples += int((np.asarray(batch["weights"]) > 0).sum())
    return total / max(examples, 1)


@partial(jax.jit, static_argnames=("model", "loss", "part", "form"))
def gate_gradients(model: BertModel, params: Tree, batch: Any, loss: Loss, part: str, form: str) -> list[Array]:
    """For every depth step the gradient of each example's own loss with respect to the gates [examples, parts]; in the
    form "official" with a gate at each position, and of those the sum of magnitudes."""
    by_position, length = form == "official", batch["input_ids"].shape[1]
    if by_position:  # with a product that is watched, no row is computed apart
        model = type(model)(model.config.replace(remat=False), lambda *given: plain_product(*given))

    def shape(step: Any) -> tuple[int, ...]:
        counts = {"heads": (step.num_attention_heads,), "neurons": (step.intermediate_size,), "layer": ()}[part]
        return (1, length, *counts) if by_position else counts

    def of_one(factors: list[Array], row: Any) -> Array:
        one = {name: array[None] for name, array in row.items()}
        gates = [LayerGates(**{part: factor}) for factor in factors]
        given = one["input_ids"], one["attention_mask"], one["token_type_ids"]
        output = model.apply({"params": params}, *given, gates=gates)
        return loss(output, one)[0]

    ones = [jnp.ones(shape(step)) for step in model.config.depth_steps()]
    found = jax.vmap(jax.grad(of_one), in_axes=(None, 0))(ones, batch)
    return [jnp.abs(one).sum(axis=(1, 2)) for one in found] if by_position else found


def magnitude(config: BertConfig, params: Tree, part: Part = "heads") -> Scores:
    """From weights alone. A head: the l2 norm of all that its queries, keys, values and outputs are made with. A
    neuron: the product of the norms of its inputs and of its outputs."""
    flat, found = flatten(params), {}
    for group, count in group_sizes(config, OWNER[part]).items():
        path = f"encoder/layer_{group}/{OWNER[part]}"
        if part == "neurons":
            found[group] = strength(flat[f"{path}/intermediate/kernel"], flat[f"{path}/output/kernel"])
            continue
        kernels = [np.asarray(flat[f"{path}/{name}/kernel"]) for name in ("query", "key", "value")]
        kernels.append(np.asarray(flat[f"{path}/output/kernel"]).T)
        squares = sum(np.square(kernel).reshape(-1, count, config.head_size).sum(axis=(0, 2)) for kernel in kernels)
        found[group] = np.sqrt(squares)
    return found


def strength(inner: Any, outer: Any) -> np.ndarray:
    """Of each neuron: the norm of what leads in times the norm of what leads out."""
    return np.linalg.norm(inner, axis=0) * np.linalg.norm(outer, axis=1)


class Activity(NamedTuple):
    """Of each part of a group, over the real tokens."""

    mean: np.ndarray
    variance: np.ndarray


def activity(model: BertModel, params: Tree, batches: Iterable[Batch], part: Part = "heads") -> dict[int, Activity]:
    """What parts say to real tokens: of a neuron its value behind the activation, of a head the norm of its context."""
    groups = [getattr(step, OWNER[part]) for step in model.config.depth_steps()]
    total: dict[int, Any] = {}
    for batch in batches:
        given = {name: jnp.asarray(array) for name, array in batch.items()}
        for group, sums in zip(groups, jax.device_get(activity_sums(model, params, given, part)), strict=True):
            total[group] = total.get(group, 0.0) + sums.astype(np.float64)
    found = {}
    for group, (count, sums, squares) in sorted(total.items()):
        mean = sums / count
        found[group] = Activity(mean, squares / count - np.square(mean))
    return found


@partial(jax.jit, static_argnames=("model", "part"))
def activity_sums(model: BertModel, params: Tree, batch: Any, part: Part) -> list[Float[Array, "3 parts"]]:
    """Tokens, sum and sum of squares of each part at every depth step."""
    seen: dict[str, Array] = {}
    real = (batch["attention_mask"] > 0) & (batch["weights"][:, None] > 0)
    site = f"{OWNER[part]}/output"

    def product(name: str, subscripts: str, left: Array, right: Any) -> Array:
        if name.endswith(site):
            x = left.astype(jnp.float32)
            if part == "heads":
                x = jnp.linalg.norm(x.reshape(*x.shape[:2], -1, model.config.head_size), axis=-1)
            x = jnp.where(real[..., None], x, 0.0)
            count = jnp.broadcast_to(real.sum(), x.shape[-1:]).astype(jnp.float32)
            seen[name] = jnp.stack([count, x.sum(axis=(0, 1)), jnp.square(x).sum(axis=(0, 1))])
        return plain_product(name, subscripts, left, right)

    watched = type(model)(model.config.replace(remat=False), product)
    watched.apply({"params": params}, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    return [seen[f"step_{number}/{site}"] for number in range(len(model.config.depth_steps()))]


def random(config: BertConfig, part: Part = "heads", seed: int = 0) -> Scores:
    """The control."""
    rng = np.random.default_rng(seed)
    return {group: rng.random(count) for group, count in group_sizes(config, OWNER[part]).items()}
