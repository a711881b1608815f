"""The site names of a model's products, found by tracing without computing anything."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from bertjax.errors import UserError
from bertjax.model import BertModel, build
from bertjax.model.config import BertConfig
from bertjax.model.products import plain_product
from bertjax.params import Tree
from bertjax.quantized.tensor import Quantized


def integer_sites(model: BertModel, params: Tree) -> tuple[str, ...]:
    """The sites whose product reads an integer matrix."""
    found: dict[str, None] = {}

    def product(site: str, subscripts: str, left: Array, right: Any) -> Array:
        if subscripts != "lookup" and isinstance(right, Quantized):
            found[site] = None
        return plain_product(site, subscripts, left, right)

    watching = type(model)(model.config, product)
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    jax.eval_shape(lambda params, ids: watching.apply({"params": params}, ids, ids, ids), params, ids)
    return tuple(found)


def check_sites(config: BertConfig, params: Tree) -> None:
    """Rejects activation formats for sites without an integer product, which would be ignored silently. `params` may be
    shapes.

    Raises:
      UserError: A site is unknown, reads no integers, or is named twice.
    """
    asked = [site for site, _ in config.quantization.activations] if config.quantization else []
    if not asked:
        return
    known = integer_sites(build(config), params)
    if wrong := next((site for site in asked if site not in known or asked.count(site) > 1), None):
        why = "twice" if wrong in known else "where no product reads integers"
        raise UserError(
            f"quantization rounds the input of {wrong} {why}; the model has {len(known)} such products: "
            f"{', '.join(known[:3])} ..."
        )
