"""The same model in a shape that plain `transformers` knows, with zeros where parts were pruned.

The files are as large as before pruning and the model is as slow. It is for checking a result in another framework and
for tools that know nothing else; the bundle and its ONNX file are the small and fast forms.

Heads of zeros add nothing to the output. Neither do neurons of zeros, because the activation function of 0 is 0. Layers
that share parameters get copies, and a factorised word embedding is multiplied out.
"""

import dataclasses

import numpy as np

from bertjax.errors import UserError
from bertjax.model import BertConfig
from bertjax.model.hf_config import is_stock
from bertjax.params import Tree, flatten, unflatten
from bertjax.quantized.tensor import Quantized, dequantised
from bertjax.share.tying import untie, with_layers


def hf_equivalent(config: BertConfig, params: Tree, dequantise: bool = False) -> tuple[BertConfig, Tree]:
    """The config and parameters of a stock model that computes the same.

    `dequantise` allows a quantised model to get floating-point weights; its activations are then not quantised any
    more.

    Raises:
      UserError: No stock model computes the same; the message gives the reason.
    """
    require_stock(config, params, dequantise)
    if config.quantization is not None:
        config, params = config.replace(quantization=None), dequantised(params)
    if config.model_type != "albert":
        config, params = untie(config, params)
        if config.factorised == "words":
            config, params = multiplied_out(config, params)
    config, params = padded_layers(config, params)
    if not is_stock(config):
        raise UserError(
            f"no {config.model_type} of plain transformers shares or maps its parameters as this model does; use "
            "--to onnx or --to stablehlo."
        )
    return config, params


def require_stock(config: BertConfig, params: Tree, dequantise: bool) -> None:
    """Raises a `UserError` if the model has features that no stock model has."""
    integers = any(isinstance(leaf, Quantized) for leaf in flatten(params).values())
    width, head = config.hidden_size, config.head_size
    reasons = {
        "it is quantised; add --dequantise to store it in floating point": integers and not dequantise,
        "it has exits; export the model without them": config.exits is not None,
        "it drops tokens; export the model without its retention": config.retention is not None,
        "it applies a layer recurrently": config.recurrence is not None,
        "its LayerNorm comes before attention and FFN (norm='pre')": config.norm == "pre",
        "its classifier has an additional activation (classifier_activation)": config.classifier_activation is not None,
        f"its hidden size {width} is not a multiple of its head size {head}": width % head != 0,
        f"a layer has more heads than fill its hidden size {width}": any(
            step.num_attention_heads * head > width for step in config.depth_steps()
        )
        and config.model_type != "mobilebert",
        "the removed parts of a pruned MobileBERT cannot be filled with zeros": config.model_type == "mobilebert"
        and not is_stock(config),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(f"plain transformers has no model that computes the same: {reason}.")


def multiplied_out(config: BertConfig, params: Tree) -> tuple[BertConfig, Tree]:
    """The model with the factorised word embedding multiplied out to the width of the encoder."""
    embeddings = dict(params["embeddings"])
    mapping = np.asarray(embeddings.pop("word_mapping")["kernel"], np.float64)
    table = np.asarray(embeddings["word"]["embedding"], np.float64) @ mapping
    embeddings["word"] = {"embedding": table.astype(np.float32)}
    return config.replace(factorised="sum", embedding_size=0), {**params, "embeddings": embeddings}


def padded_layers(config: BertConfig, params: Tree) -> tuple[BertConfig, Tree]:
    """The model with zeros in every layer, up to the heads that fill the width and the neurons of the largest layer."""
    if config.model_type == "mobilebert":
        return config, params
    width, heads = config.hidden_size, config.hidden_size // config.head_size
    neurons = max(1, *(step.intermediate_size for step in config.depth_steps()))
    flat = flatten(params)
    for step in config.depth_steps():
        attention, ffn = f"encoder/layer_{step.attention}/attention", f"encoder/layer_{step.ffn}/ffn"
        for name in ("query", "key", "value"):
            widen(flat, f"{attention}/{name}/kernel", width, width)
            widen(flat, f"{attention}/{name}/bias", width)
        widen(flat, f"{attention}/output/kernel", width, width)
        widen(flat, f"{ffn}/intermediate/kernel", width, neurons)
        widen(flat, f"{ffn}/intermediate/bias", neurons)
        widen(flat, f"{ffn}/output/kernel", neurons, width)
    sizes = {"num_attention_heads": heads, "intermediate_size": neurons}
    steps = tuple(dataclasses.replace(step, **sizes) for step in config.depth_steps())
    return with_layers(dataclasses.replace(config, **sizes, layers=steps), steps), unflatten(flat)


def widen(flat: Tree, path: str, *shape: int) -> None:
    """Pads an array to a shape with zeros at its ends; one that does not exist, as in a layer without heads, becomes
    zeros."""
    leaf = np.asarray(flat.get(path, np.zeros([0] * len(shape), np.float32)))
    flat[path] = np.pad(leaf, [(0, size - own) for size, own in zip(shape, leaf.shape, strict=True)])
