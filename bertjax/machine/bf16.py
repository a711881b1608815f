"""Products of bfloat16 arrays on CPUs that multiply bfloat16 (AMX), written so that XLA's CPU backend uses it.

The trade-off: the gradient of a matrix writes a transpose to memory.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def bf16_matmul(subscripts: str, left: Array, right: Array) -> Array:
    """`jnp.einsum` of two bfloat16 arrays, for CPUs that multiply bfloat16 (AMX), at five times the rate of float32.

    XLA uses these instructions only if the accumulator is float32 and the left operand is row-major; otherwise it
    multiplies in float32. So products accumulate in float32 here and in the gradients, and the gradient of the matrix
    transposes its left operand explicitly.
    """
    return einsum_float32(subscripts, left, right)


def einsum_float32(subscripts: str, left: Array, right: Array) -> Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32).astype(left.dtype)


def _bf16_matmul_forward(subscripts: str, left: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    return einsum_float32(subscripts, left, right), (left, right)


def _bf16_matmul_backward(subscripts: str, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    left, right = saved
    inputs, out = subscripts.split("->")
    first, second = inputs.split(",")
    of_left = einsum_float32(f"{out},{second}->{first}", gradient, right)
    if right.ndim > 2:
        return of_left, einsum_float32(f"{first},{out}->{second}", left, gradient)
    of_right = einsum_float32("ir,ro->io", transpose(left), gradient)
    return of_left, of_right if second[0] == first[-1] else of_right.T


def transpose(rows: Array) -> Array:
    """The transpose, materialised in memory. It goes through three axes, which is ten times as fast on XLA's CPU
    backend."""
    count, width = rows.shape
    block = math.gcd(count, 16)
    blocks = rows.reshape(count // block, block, width).transpose(2, 0, 1)
    return jax.lax.optimization_barrier(blocks.reshape(width, count))


bf16_matmul.defvjp(_bf16_matmul_forward, _bf16_matmul_backward)
