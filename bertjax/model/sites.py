"""The site names of a model's products, found by tracing without computing anything."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from bertjax.errors import UserError
from bertjax.model import BertModel, build
from bertjax.model.config import BertConfig
from bertjax.model.products import plain_product
from bertjax.model.tokens import all_tokens, kept_of, rule_of
from bertjax.params import Tree
from bertjax.quantized.tensor import Quantized


def integer_sites(model: BertModel, params: Tree) -> tuple[str, ...]:
    """The sites whose product reads an integer matrix."""
    sites: dict[str, None] = {}

    def product(site: str, subscripts: str, left: Array, right: Any) -> Array:
        if subscripts != "lookup" and isinstance(right, Quantized):
            sites[site] = None
        return plain_product(site, subscripts, left, right)

    observed = type(model)(model.config, product)
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    jax.eval_shape(lambda params, ids: observed.apply({"params": params}, ids, ids, ids), params, ids)
    return tuple(sites)


def has_site(config: BertConfig, site: str) -> bool:
    """Whether a site of a whole layer exists: not if the layer has no heads, or no neurons."""
    found = re.match(r"step_(\d+)/(attention|ffn)/", site)
    if not found or config.recurrence:
        return True
    step = config.depth_steps()[int(found[1])]
    return (step.num_attention_heads if found[2] == "attention" else step.intermediate_size) > 0


def real_rows(config: BertConfig, site: str, mask: Int[Array, "b l"]) -> Bool[Array, "b s"]:
    """Which rows of a product's input are tokens, where every layer computes all its rows (as `by_rows` says). Tokens
    that are left after others were dropped stand first."""
    real, found = mask > 0, re.match(r"step_(\d+)/(attention|ffn)/", site)
    if not (config.retention and found):
        return real
    rule, length = rule_of(config.retention), mask.shape[1]
    before = int(found[1]) - (found[2] == "attention" or rule.after == "layer")
    if not any(step <= before for step in rule.steps or ()):
        return real
    rows = jnp.arange(config.retention.count(before, length))[None]
    return rows < kept_of(config.retention, before, all_tokens(real))[:, None]


def check_sites(config: BertConfig, params: Tree) -> None:
    """Rejects activation formats for sites without an integer product, which would be ignored silently. `params` may be
    shapes.

    Raises:
      UserError: A site is unknown, reads no integers, or is named twice.
    """
    sites = [site for site, _ in config.quantization.activations] if config.quantization else []
    if not sites:
        return
    known = integer_sites(build(config), params)
    if wrong := next((site for site in sites if site not in known or sites.count(site) > 1), None):
        why = "twice" if wrong in known else "where the model has no quantised matrix"
        raise UserError(
            f"quantization.activations has the site {wrong} {why}; expected, each at most once, some of the "
            f"{len(known)} sites that have one: {', '.join(known[:3])} ..."
        )
