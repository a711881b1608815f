"""Mixed precision: the bits of each encoder layer for a given mean, chosen before training.

Every layer is quantised alone, in each of the possible formats, and the cost is measured on training examples: the
increase of the loss, or the curvature of the loss times the squared error (Q-BERT and HAWQ; much slower, and it does
not predict the effect of large changes). Costs are assumed to add up over layers; under that assumption the assignment
with the least total cost within the size is exact. Q-BERT's authors chose by hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjax.errors import UserError
from bertjax.quantized.formats import Format
from bertjax.recipes.quantize import Quantize

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.learn.losses import Batch
    from bertjax.params import Tree
    from bertjax.quantized.tensor import Quantized

Trees = dict[tuple[str, int], "Tree"]
"""Parameters with one layer quantised, by layer and bits."""


def assigned_rules(config: Quantize, model: Bundle, batches: Sequence[Any], out: Path) -> tuple[tuple[str, Any], ...]:
    """The rules of a config, preceded by one for each encoder layer, so that the weights of all layers take
    `config.mean_bits` bits on average, scales included. The result is stored in `run.json` and not computed again.

    Raises:
      UserError: Even the smallest format for every layer exceeds the size.
    """
    from bertjax.engine.log import note
    from bertjax.engine.record import read_record, update_record

    found = (read_record(out) or {}).get("assignment")
    if found is None:
        found = assignment(config, model, batches)
        update_record(out, assignment=found)
    for layer, about in found["layers"].items():
        costs = ", ".join(f"{bits} bits {cost:.3g}" for bits, cost in about["cost"].items())
        note(f"{layer}: {found['bits'][layer]} bits ({config.sensitivity}: {costs})")
    formats = {format.bits: format for format in config.choices}
    return (*((f"^{layer}.*kernel$", formats[bits]) for layer, bits in found["bits"].items()), *config.weights)


def assignment(config: Quantize, model: Bundle, batches: Sequence[Any]) -> dict[str, Any]:
    """The bits of every layer, the cost of each choice, and the Pareto front of size and cost.

    Computed in float32 whatever the training dtype: small differences decide, and products in bfloat16 have no second
    derivative on a CPU.
    """
    from bertjax.quantize.assignment import Choice, cheapest, frontier

    model = dataclasses.replace(model, config=model.config.replace(dtype="float32"))
    formats = {format.bits: format for format in config.choices}
    layers = layers_of(model.params)
    rounded = {
        (layer, bits): round_layer(config, model, layer, format) for layer in layers for bits, format in formats.items()
    }
    sizes = {name: sum(map(stored_size, leaves)) for name, (_, leaves) in rounded.items()}
    weights = {layer: sum(leaf.values.size for leaf in rounded[layer, min(formats)][1]) for layer in layers}
    trees = {name: tree for name, (tree, _) in rounded.items()}
    costs, about = (by_loss if config.sensitivity == "loss" else by_curvature)(config, model, batches, trees)
    parts = {layer: [Choice(bits, sizes[layer, bits], costs[layer, bits]) for bits in formats] for layer in layers}
    assert config.mean_bits is not None
    budget = int(config.mean_bits * sum(weights.values()) / 8)
    return {
        "bits": cheapest(parts, budget),
        "budget_bytes": budget,
        "layers": {
            layer: {
                "bytes": {bits: sizes[layer, bits] for bits in formats},
                "cost": {bits: costs[layer, bits] for bits in formats},
                **about.get(layer, {}),
            }
            for layer in layers
        },
        "frontier": [point._asdict() for point in frontier(parts)],
    }


def layers_of(params: Tree) -> list[str]:
    """The parameter groups of the encoder: "encoder/layer_0/" and so on."""
    from bertjax.params import flatten

    paths = (path.split("/") for path in flatten(params))
    return list(dict.fromkeys(f"encoder/{path[1]}/" for path in paths if path[0] == "encoder" and "layer_" in path[1]))


def round_layer(config: Quantize, model: Bundle, layer: str, format: Format) -> tuple[Any, list[Any]]:
    """The parameters with one layer quantised, in floating point; and the integer matrices of that layer."""
    from bertjax.params import flatten
    from bertjax.quantize import Quantized, quantise_weights
    from bertjax.quantized.tensor import dequantised

    _, params = quantise_weights(model.config, model.params, ((f"^{layer}.*kernel$", format),), config.weight_range)
    return dequantised(params), [leaf for leaf in flatten(params).values() if isinstance(leaf, Quantized)]


def stored_size(leaf: Quantized) -> int:
    """Bytes of a quantised matrix in a file, scales and offsets included."""
    from bertjax.quantized.packing import packed_size

    shared = leaf.scale.size + (0 if leaf.offset is None else leaf.offset.size)
    return packed_size(leaf.values.size, leaf.format) + 4 * shared


def loss_of(config: Quantize, model: Bundle) -> Callable[[Tree, Batch], Any]:
    """The mean over a batch of the training objective (`config.losses`, with the unquantised model as teacher), as a
    sum and a weight."""
    import jax.numpy as jnp

    from bertjax.learn.assemble import bind_losses, loss_names
    from bertjax.learn.objective import terms_of
    from bertjax.learn.transform import Update
    from bertjax.text.batches import inputs_of

    bound, own = bind_losses(loss_names(config.losses), model.config, [model.config], config.seed)

    def loss(params: Tree, batch: Batch) -> Any:
        teacher_out = model.model.apply({"params": model.params}, *inputs_of(batch))
        student_out = model.model.apply({"params": params}, *inputs_of(batch))
        outputs = (student_out, student_out), [(teacher_out, teacher_out)]
        terms = terms_of(bound, own, *outputs, batch, Update(0, None)).values()
        weight = jnp.sum(batch["weights"])
        return weight * sum(term.factor * term.total / term.weight for term in terms), weight

    return loss


def by_loss(
    config: Quantize, model: Bundle, batches: Sequence[Any], trees: Trees
) -> tuple[dict[Any, float], dict[str, Any]]:
    """The increase of the loss with each layer quantised alone. Negative values are noise."""
    from bertjax.quantize.sensitivity import loss_increases

    transforms = {name: lambda _, tree=tree: tree for name, tree in trees.items()}
    return loss_increases(loss_of(config, model), model.params, batches, transforms), {}


def by_curvature(config: Quantize, model: Bundle, batches: Sequence[Any], trees: Trees) -> tuple[dict[Any, float], Any]:
    """|mean| + std of the largest eigenvalue of a layer's Hessian over ten subsets of the examples (Q-BERT, eq. 2)
    times the squared quantisation error (HAWQ, eq. 9)."""
    from bertjax.engine.log import note
    from bertjax.quantize.sensitivity import SUBSETS, sensitivities, squared_change

    subsets = [batches[number::SUBSETS] for number in range(SUBSETS)]
    if not all(subsets):
        raise UserError(
            f"--calibration_examples={config.calibration_examples} gives {len(batches)} batches; the curvature needs "
            f"{SUBSETS} or more."
        )
    layers = dict.fromkeys(layer for layer, _ in trees)
    found = sensitivities(loss_of(config, model), model.params, {layer: f"^{layer}" for layer in layers}, subsets)
    about = {}
    for layer, one in found.items():
        note(
            f"{layer}: largest eigenvalue {one.mean:.3g} +- {one.std:.3g} over {SUBSETS} parts of the text, below 0 in "
            f"{one.negative}, not settled in {one.unconverged}"
        )
        values = [eigenvalue.value for eigenvalue in one.eigenvalues]
        about[layer] = {"eigenvalues": values, "unconverged": one.unconverged}
    costs = {(layer, b): found[layer].omega * squared_change(model.params, t) for (layer, b), t in trees.items()}
    return costs, about
