"""Attention in one piece: kernels that never hold a score for every pair of tokens.

The plain path writes its scores down, [b, h, l, l] of them, and reads them again for the softmax, the values and the
gradient. A fused kernel keeps a block of them on the chip, so its memory grows with the length and not with its square.
Who sees whom is told by segment ids, [b, l]: the texts of a packed row are segments, and padding is one more.

The price: probabilities that are never there cannot be dropped, nor scores rounded, and every row of the last layer is
computed, also under a head that reads one. On a TPU lengths are filled up to the next multiple of 128, so that texts of
32 tokens cost four times their attention. From which length a kernel pays has not been measured here; the plain path
stays the default and the reference.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bertjax.errors import UserError
from bertjax.model.config import Kernel

Mask = Bool[Array, "b 1 #r l"] | Int[Array, "b l"]
"""Who sees whom: which keys a query may look at, or for a fused kernel the segment of every token."""

BACKENDS = {"cudnn": ("gpu", "an NVIDIA GPU"), "flash": ("tpu", "a TPU")}
"""Where a kernel runs: its name in jax, and in words."""
MULTIPLES = {"cudnn": 2, "flash": 128}
"""Lengths are filled up to multiples of this: cuDNN's gradient wants even ones, a TPU has 128 lanes."""
PADDING = -1
"""The segment of padding, among ids from 0."""


def require_backend(kernel: Kernel) -> None:
    """Raises `UserError` where a kernel cannot run."""
    backend, words = BACKENDS.get(kernel, (None, ""))
    if backend and jax.default_backend() != backend:
        raise UserError(f"attention={kernel!r} needs {words}, and jax finds none here; leave it at 'xla'.")


def key_mask(
    attention_mask: Int[ArrayLike, "b l"], segment_ids: Int[ArrayLike, "b l"] | None = None, kernel: Kernel = "xla"
) -> Mask:
    """Which keys a query may look at: real tokens, and of its own segment where rows are packed.

    For a fused kernel that is the segment of every token. Padding is a segment, whose tokens see each other: nobody
    reads what becomes of them, and a query without any key would have no softmax.
    """
    real = jnp.asarray(attention_mask) > 0
    if kernel != "xla":
        return jnp.where(real, 0 if segment_ids is None else jnp.asarray(segment_ids), PADDING)
    keys = real[:, None, None, :]
    if segment_ids is None:
        return keys
    segments = jnp.asarray(segment_ids)
    return keys & (segments[:, None, :, None] == segments[:, None, None, :])


def fused_attention(
    kernel: Literal["cudnn", "flash"],
    queries: Float[Array, "b l h k"],
    keys: Float[Array, "b l h k"],
    values: Float[Array, "b l h k"],
    segments: Int[Array, "b l"],
) -> Float[Array, "b l h k"]:
    """softmax(q k / sqrt(k)) v among the tokens of each segment, in the dtype of the queries."""
    length = queries.shape[1]
    missing = -length % MULTIPLES[kernel]

    def filled(x: Array, value: int = 0) -> Array:
        return jnp.pad(x, ((0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)), constant_values=value)

    run = {"cudnn": cudnn, "flash": flash}[kernel]
    return run(filled(queries), filled(keys), filled(values), filled(segments, PADDING))[:, :length]


def cudnn(
    queries: Float[Array, "b l h k"],
    keys: Float[Array, "b l h k"],
    values: Float[Array, "b l h k"],
    segments: Int[Array, "b l"],
) -> Float[Array, "b l h k"]:
    """NVIDIA's kernel. It takes the mask as an array: two bytes for every pair of tokens of a row, for all heads."""
    mask = segments[:, None, :, None] == segments[:, None, None, :]
    return jax.nn.dot_product_attention(queries, keys, values, mask=mask, implementation="cudnn")


def flash(
    queries: Float[Array, "b l h k"],
    keys: Float[Array, "b l h k"],
    values: Float[Array, "b l h k"],
    segments: Int[Array, "b l"],
) -> Float[Array, "b l h k"]:
    """The Pallas kernel for TPUs that comes with jax (FlashAttention, Dao et al. 2022)."""
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, SegmentIds, flash_attention

    # Up to 512 tokens are one block, so one plain softmax; longer rows are cut into blocks that share a running one.
    block = next(size for size in (512, 384, 256, 128) if queries.shape[1] % size == 0)
    scale = queries.shape[-1] ** -0.5

    def local(q: Array, k: Array, v: Array, s: Array) -> Array:
        return flash_attention(
            q,
            k,
            v,
            segment_ids=SegmentIds(s, s),
            sm_scale=scale,
            block_sizes=BlockSizes(block, block, block, 1, *[block] * 7),
        )

    heads_first = (x.swapaxes(1, 2) for x in (queries, keys, values))
    return on_own_rows(local, *heads_first, segments).swapaxes(1, 2)


def on_own_rows(kernel: Callable[..., Array], *arrays: Array) -> Array:
    """A kernel, on every device for the rows that it holds.

    XLA divides its own operations by itself, but not a kernel, which it cannot look into. The mesh is that of the
    arrays, as `jit` knows it from its arguments; rows that do not divide over it are computed on every device.
    """
    mesh = jax.typeof(arrays[0]).sharding.mesh
    if mesh.empty or mesh.size == 1:
        return kernel(*arrays)
    rows = PartitionSpec(mesh.axis_names if arrays[0].shape[0] % mesh.size == 0 else None)
    return jax.shard_map(kernel, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)(*arrays)
