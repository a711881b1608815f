"""Every matrix product of the model in one place: dense layers, attention, embedding look-ups; and dropout.

To change how products are computed (quantised activations, integer arithmetic), give the model a `Product`. It is
called for each product with the name of its site, such as `step_3/attention/query`; the model has no other `einsum`.
The price is one more argument per call, with no run-time cost.

Dropout hashes the position of each element with the key. The generator of `jax.random` does not fuse with other
operations on a CPU, and its nineteen calls take 3 % of a training step of six layers and a third of its compilation.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from bertjax.machine.bf16 import bf16_matmul
from bertjax.machine.xla import platform
from bertjax.quantized.tensor import Quantized

Product = Callable[[str, str, Array, Any], Array]
"""`(site, subscripts, left, right) -> result`, as `jnp.einsum(subscripts, left, right)`, in the dtype of the left
operand. For an embedding look-up, `subscripts` is "lookup", `left` the ids and `right` the table, and the result is
float32. `right` may be `Quantized`."""


def plain_product(site: str, subscripts: str, left: Array, right: Any) -> Array:
    """The product in floating point; integer matrices are dequantised. Accumulates in float32 where the hardware
    does."""
    del site
    if subscripts == "lookup":
        return right.rows(left) if isinstance(right, Quantized) else jnp.take(right, left, axis=0, mode="clip")
    right = (right.dequantised() if isinstance(right, Quantized) else right).astype(left.dtype)
    bf16_on_cpu = left.dtype == jnp.bfloat16 and platform() == "cpu"
    if right.ndim == 2:
        # Flatten the leading axes: with two, XLA's CPU backend copies and transposes for the gradient of the matrix,
        # which doubles its time.
        left_axes, right_axes = subscripts.split("->")[0].split(",")
        contracted = right_axes.index(left_axes[-1])
        rows = left.reshape(math.prod(left.shape[:-1]), left.shape[-1])
        result: Any = (
            bf16_matmul("ri,io->ro" if contracted == 0 else "ri,oi->ro", rows, right)
            if bf16_on_cpu
            else jax.lax.dot_general(rows, right, (((1,), (contracted,)), ((), ())))
        )
        return result.reshape(*left.shape[:-1], right.shape[1 - contracted])
    return bf16_matmul(subscripts, left, right) if bf16_on_cpu else jnp.einsum(subscripts, left, right)


def by_rows(product: Product) -> bool:
    """True if the product may be split by rows; observers that collect statistics need all rows in one call."""
    return product is plain_product or getattr(product, "by_rows", False)


def dense(
    x: Float[Array, "*batch inputs"],
    kernel: Float[Array, "inputs outputs"] | Quantized,
    bias: Float[Array, " outputs"],
    *,
    site: str,
    product: Product,
) -> Float[Array, "*batch outputs"]:
    """`x @ kernel + bias` in the dtype of `x`. The bias is added in float32 because its gradient is a sum over all
    rows: in bfloat16 on a CPU it was 3 % off after 8,192 of them."""
    letters = "abcdefgh"[: x.ndim - 1]
    with jax.named_scope(f"[{site}]"):  # to find the product in compiled programs
        result = product(site, f"{letters}i,io->{letters}o", x, kernel)
    return (result.astype(jnp.float32) + as_row(bias, x.ndim)).astype(x.dtype)


def as_row(vector: Float[Array, " d"], rank: int) -> Float[Array, "..."]:
    """The vector with leading axes of length 1, so that broadcasting is always explicit."""
    return vector.reshape((1,) * (rank - 1) + (-1,))


def lookup(
    ids: Int[Array, "*batch"], table: Float[Array, "rows width"] | Quantized, *, site: str, product: Product
) -> Float[Array, "*batch width"]:
    """Rows of a table. Ids outside the table are clipped, so that arbitrary ids in padding cannot produce NaN."""
    return product(site, "lookup", ids, table)


def dropout(x: Float[Array, "*shape"], rate: float, key: Array | None) -> Float[Array, "*shape"]:
    """Zeroes elements with probability `rate` and scales the others to keep the mean. Without a key, returns `x`."""
    if key is None or rate == 0:
        return x
    kept = random_words(key, x.shape) >= jnp.uint32(rate * 2**32)
    return jnp.where(kept, x * (1 / (1 - rate)), jnp.zeros_like(x))


def random_words(key: Array, shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """Uniform 32-bit words, each a function of the key and its position, so they are the same under any sharding.

    A position is mixed once per word of the key (two for jax's default). Good enough for decisions that must look
    independent, not for cryptography; positions repeat after 2^32 elements.
    """
    words = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        words = words * jnp.uint32(shape[axis]) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    salt = jnp.uint32(0x9E3779B9)
    for part in jax.random.key_data(key).ravel():
        salt = mixed(salt ^ part)
        words = mixed(words ^ salt)
    return words


def mixed(words: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A permutation of the 32-bit words in which every output bit depends on every input bit (lowbias32, Wellons
    2018)."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x7FEB352D)
    words = (words ^ (words >> 15)) * jnp.uint32(0x846CA68B)
    return words ^ (words >> 16)
