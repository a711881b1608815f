"""Every product of the model, in one place: matrix products, attention, embedding look-ups, and dropout.

Whatever wants to change how products are computed (rounding of activations, integer arithmetic) gives the model a
`Product` and sees each of them with the name of its site, `step_3/attention/query` for instance; there is no other
call to `einsum` in the model. The price is one argument more per call; left out, it costs nothing.

Dropout draws one 32-bit word for four decisions. On a CPU, random bits would otherwise take a third of a training
step; a rate is therefore rounded to 1/256, and the scaling uses the rounded rate, so that the mean is exact.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Product = Callable[[str, str, Array, Array], Array]
"""`(site, subscripts, left, right) -> result`, as `jnp.einsum(subscripts, left, right)`. A look-up in a table has the
subscripts "lookup", the ids on the left and the table on the right."""


def plain_product(site: str, subscripts: str, left: Array, right: Array) -> Array:
    """The product as it is written. Accumulates in float32 where the hardware does."""
    del site
    if subscripts == "lookup":
        return jnp.take(right, left, axis=0, mode="clip")
    if right.ndim == 2:
        # A matrix meets rows. As one axis, because XLA's CPU backend copies and transposes for the gradient of a matrix
        # that meets two, which then takes twice as long.
        left_axes, right_axes = subscripts.split("->")[0].split(",")
        contracted = right_axes.index(left_axes[-1])
        rows = left.reshape(math.prod(left.shape[:-1]), left.shape[-1])
        result = jax.lax.dot_general(rows, right, (((1,), (contracted,)), ((), ())))
        return result.reshape(*left.shape[:-1], right.shape[1 - contracted])
    return jnp.einsum(subscripts, left, right)


def dense(
    x: Float[Array, "*batch inputs"],
    kernel: Float[Array, "inputs outputs"],
    bias: Float[Array, " outputs"],
    *,
    site: str,
    product: Product,
) -> Float[Array, "*batch outputs"]:
    """`x @ kernel + bias` in the dtype of `x`."""
    letters = "abcdefgh"[: x.ndim - 1]
    return product(site, f"{letters}i,io->{letters}o", x, kernel.astype(x.dtype)) + as_row(bias, x.ndim).astype(x.dtype)


def as_row(vector: Float[Array, " d"], rank: int) -> Float[Array, "..."]:
    """The vector with leading axes of length 1, so that nothing is ever broadcast by accident."""
    return vector.reshape((1,) * (rank - 1) + (-1,))


def lookup(
    ids: Int[Array, "*batch"], table: Float[Array, "rows width"], *, site: str, product: Product
) -> Float[Array, "*batch width"]:
    """Rows of a table. Ids outside the table are clipped, so that garbage in padding cannot make a NaN."""
    return product(site, "lookup", ids, table)


def dropout(x: Float[Array, "*shape"], rate: float, key: Array | None) -> Float[Array, "*shape"]:
    """Zeroes elements with probability `rate`, rounded to 1/256, and scales the others up. No key: `x` as it is."""
    dropped = round(rate * 256)
    if key is None or dropped == 0:
        return x
    width = -(-x.shape[-1] // 4)
    words = jax.random.bits(key, (*x.shape[:-1], width), jnp.uint32)
    octets = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*x.shape[:-1], 4 * width)[..., : x.shape[-1]]
    return jnp.where(octets >= dropped, x * (256 / (256 - dropped)), jnp.zeros_like(x))
