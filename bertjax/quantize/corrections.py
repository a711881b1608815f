"""Two changes of a model that make its rounding err less, at no cost at run time: the file has the same operators.

Smooth quantisation (Xiao et al. 2023). A channel with large inputs widens the range that all channels of a product
share. Its inputs are divided by a number, and its row of the kernel multiplied by it, which is the same function. The
division needs a place: the gain and bias of a LayerNorm that only these products read, as before a pre-norm sublayer;
or the columns of the kernel that made the inputs, if nothing but sums (attention) or ReLU lies between them. After a
post-norm LayerNorm, whose output is also added to the residual, and after GELU there is no such place, so for the
published BERTs only the inputs of the attention output are smoothed.

Bias correction (Nagel et al. 2019, section 4.2). Rounding errors do not average to 0 over real inputs. The mean error
of a product's output on calibration text is subtracted from its bias. Clipping is no part of it: it hits a few tokens
with inputs many times as large as all others, whose mean error would be wrong for every other token (on SST-2, MiniLM
lost 38 points by it).

On SST-2, MiniLM in 7 bits is 0.154 from its float logits (root of the mean square), with corrected biases 0.143, and
smoothed 0.159, with both 0.162; 6, 10, 15 and 9 of 872 labels differ from the float model's (90.5, 90.0, 90.4 and 90.6
are right), which is no difference to rely on.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from bertjax.model import BertConfig, BertModel, build
from bertjax.params import Tree, flatten, unflatten
from bertjax.quantize.activations import Batch, watched_over
from bertjax.quantized.formats import Activation, Quantization
from bertjax.quantized.tensor import Quantized

STRENGTH = 0.5
"""The share of the difficulty that moves from inputs to weights; the paper's value."""


class Pair(NamedTuple):
    """A place that scales channels, and the products that read them and nothing else does."""

    source: str
    """Path of a norm (its scale and bias), or of a dense layer (the columns of its kernel, and its bias)."""
    readers: tuple[str, ...]
    """Paths of dense layers."""
    sites: tuple[str, ...]
    """The sites where the channels are read, one for each depth step."""


def channel_scales(
    inputs: Float[np.ndarray, " d"], weights: Float[np.ndarray, " d"], strength: float = STRENGTH
) -> Float[np.ndarray, " d"]:
    """What the inputs of each channel are divided by (Xiao et al. 2023, equation 4), from the largest magnitude of its
    inputs and of its weights: `inputs ** strength / weights ** (1 - strength)`; 1 for a channel without any."""
    used = (inputs > 0) & (weights > 0)
    return np.where(used, np.where(used, inputs, 1) ** strength / np.where(used, weights, 1) ** (1 - strength), 1.0)


def pairs(config: BertConfig) -> Iterator[Pair]:
    """The places of a model where channels can be scaled without a change of its function."""
    if config.bottleneck or config.recurrence:
        return
    steps = list(enumerate(config.depth_steps()))
    for part, inner, made_by, read_by in (
        ("attention", ("query", "key", "value"), "value", "output"),
        ("ffn", ("intermediate",), "intermediate", "output"),
    ):
        groups: dict[int, list[int]] = {}
        norms: dict[int, list[int]] = {}
        for number, step in steps:
            if step.num_attention_heads if part == "attention" else step.intermediate_size:
                groups.setdefault(getattr(step, part), []).append(number)
            norms.setdefault(getattr(step, f"{part}_norm"), []).append(number)
        for group, used in groups.items():
            path = f"encoder/layer_{group}/{part}"
            if part == "attention" or config.hidden_act == "relu":
                sites = tuple(f"step_{number}/{part}/{read_by}" for number in used)
                yield Pair(f"{path}/{made_by}", (f"{path}/{read_by}",), sites)
            norm = next((one for one, at in norms.items() if at == used), None)
            if config.norm == "pre" and norm is not None:
                sites = tuple(f"step_{number}/{part}/{inner[0]}" for number in used)
                yield Pair(f"encoder/layer_{norm}/{part}/layer_norm", tuple(f"{path}/{one}" for one in inner), sites)


def smooth(
    config: BertConfig, params: Tree, largest: Mapping[str, Float[np.ndarray, " d"]], strength: float = STRENGTH
) -> Tree:
    """The same function with smoother inputs of its products. `largest` has the largest magnitude of each input channel
    by site; places without one stay as they are."""
    flat = dict(flatten(params))
    for source, readers, sites in pairs(config):
        if not all(site in largest for site in sites):
            continue
        kernels = [np.asarray(flat[f"{path}/kernel"]) for path in readers]
        weights = np.max([np.abs(kernel).max(axis=1) for kernel in kernels], axis=0)
        scale = channel_scales(np.max([largest[site] for site in sites], axis=0), weights, strength).astype(np.float32)
        for path, kernel in zip(readers, kernels, strict=True):
            flat[f"{path}/kernel"] = kernel * scale[:, None]
        for name in ("scale", "kernel", "bias"):
            if (path := f"{source}/{name}") in flat:
                flat[path] = np.asarray(flat[path]) / scale
    return unflatten(flat)


def correct_biases(
    config: BertConfig, quantised: Tree, params: Tree, means: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Tree:
    """The quantised model with the mean error of each product's output subtracted from its bias. `params` are those in
    floating point; `means` has the mean clipped input of each site, and the mean rounded input. Where several sites
    share a bias, it gets the mean of their corrections."""
    flat, floats = dict(flatten(quantised)), flatten(params)
    errors: dict[str, list[np.ndarray]] = {}
    for site, (given, rounded) in means.items():
        path = path_of(config, site)
        leaf = flat.get(f"{path}/kernel")
        if isinstance(leaf, Quantized):
            error = rounded @ np.asarray(leaf.dequantised()) - given @ np.asarray(floats[f"{path}/kernel"])
            errors.setdefault(path, []).append(error)
    for path, found in errors.items():
        flat[f"{path}/bias"] = np.asarray(flat[f"{path}/bias"] - np.mean(found, axis=0), np.float32)
    return unflatten(flat)


def path_of(config: BertConfig, site: str) -> str:
    """The path of the dense layer at a site of a layer; other sites have the name of their path."""
    found = re.fullmatch(r"step_(\d+)/(attention|ffn)/(\w+)", site)
    if not found or config.recurrence:
        return site
    return f"encoder/layer_{getattr(config.depth_steps()[int(found[1])], found[2])}/{found[2]}/{found[3]}"


def largest_inputs(model: BertModel, params: Tree, batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """The largest magnitude of each input channel over real tokens, for every product that reads an integer matrix."""
    return watched_over(model, params, batches, "largest", None, np.maximum)


def mean_inputs(
    config: BertConfig, params: Tree, ranges: Mapping[str, Activation], batches: Iterable[Batch]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The mean of each input channel, clipped to its range, over real tokens, and that of the rounded inputs, for every
    site with a range. The model itself computes with integer weights and activations in floating point, as when the
    ranges were found."""
    assert config.quantization is not None
    model = build(config.replace(quantization=Quantization(config.quantization.weights)))
    sums = watched_over(model, params, batches, "sums", tuple(ranges.items()), lambda a, b: jax.tree.map(np.add, a, b))
    return {site: (given / count, rounded / count) for site, (given, rounded, count) in sums.items()}
