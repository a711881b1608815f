"""Attention: its masks, the plain path, and fused kernels that never store the attention scores.

The plain path ("xla") writes the scores [b, h, l, l] to memory and reads them again for the softmax, the values and the
gradient. A fused kernel keeps a block of them on the chip, so its memory is linear in the length, not quadratic.
Segment ids [b, l] set which tokens attend to each other: each packed example is a segment, and padding is another.

The trade-off: a fused kernel cannot apply attention dropout or quantise scores, and it computes every row of the last
layer even if the head reads only one. On a TPU, lengths are padded to a multiple of 128, so at 32 tokens attention
costs four times as much. The length from which a kernel is faster has not been measured here; the plain path is the
default and the reference.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bertjax.errors import UserError
from bertjax.machine.layout import softmax_axis
from bertjax.model.config import Kernel
from bertjax.model.products import Product, dropout

Mask = Bool[Array, "b 1 #r l"] | Int[Array, "b l"]
"""Which tokens attend to each other: a mask of the keys visible to each query, or for a fused kernel the segment id of
every token."""

BACKENDS = {"cudnn": ("gpu", "an NVIDIA GPU"), "flash": ("tpu", "a TPU")}
"""The backend that each kernel needs: its name in jax, and in words."""
MULTIPLES = {"cudnn": 2, "flash": 128}
"""Lengths are padded to a multiple of this: cuDNN's gradient needs even lengths, and a TPU has 128 lanes."""
PADDING = -1
"""Segment id of padding; other ids start at 0."""


def require_backend(kernel: Kernel) -> None:
    """Raises `UserError` if the kernel does not run on this backend."""
    backend, device = BACKENDS.get(kernel, (None, ""))
    if backend and jax.default_backend() != backend:
        raise UserError(f"attention={kernel!r} needs {device}, and jax finds none here; use attention='xla'.")


def key_mask(
    attention_mask: Int[ArrayLike, "b l"] | Bool[Array, "b l"],
    segment_ids: Int[ArrayLike, "b l"] | None = None,
    kernel: Kernel = "xla",
) -> Mask:
    """The attention mask: real tokens, and in packed rows only those of the same segment.

    For a fused kernel it is the segment id of every token. Padding tokens attend to each other, because a query without
    any key has no softmax; their outputs are never read.
    """
    real = jnp.asarray(attention_mask) > 0
    if kernel != "xla":
        return jnp.where(real, 0 if segment_ids is None else jnp.asarray(segment_ids), PADDING)
    keys = real[:, None, None, :]
    if segment_ids is None:
        return keys
    segments = jnp.asarray(segment_ids)
    return keys & (segments[:, None, :, None] == segments[:, None, None, :])


def attention(
    kernel: Kernel,
    queries: Float[Array, "b r h k"],
    keys: Float[Array, "b l h k"],
    values: Float[Array, "b l h k"],
    mask: Mask,
    *,
    site: str,
    product: Product,
    rate: float,
    key: Callable[[], Array | None],
    rank: Callable[[Array, int], Array] | None = None,
) -> tuple[Float[Array, "b r h k"], Float[Array, "b l"] | None]:
    """softmax(q k / sqrt(k)) v over the visible keys, by the kernel of that name, and the significance of each key.

    `rate` is that of dropout of the attention probabilities, and `key()` draws its key, or gives None if dropout is
    off. `rank` computes significances from the probabilities before dropout and the axis of the keys in them; without
    it they are None.

    Raises:
      UserError: The kernel is a fused one, and attention probabilities are to be dropped, or ranked.
    """
    if kernel == "xla":
        drop = lambda x: dropout(x, rate, key())  # noqa: E731
        return plain_attention(queries, keys, values, mask, site, product, drop, rank)
    if rank is not None:
        raise UserError(
            f"attention={kernel!r} never holds the attention probabilities, by which tokens are dropped: use "
            "attention='xla'."
        )
    if rate and key() is not None:
        raise UserError(
            f"attention={kernel!r} cannot drop attention probabilities, which it never holds, and "
            f"attention_probs_dropout_prob is {rate}: train with 0, or with attention='xla'."
        )
    return fused_attention(kernel, queries, keys, values, mask), None


def plain_attention(
    queries: Float[Array, "b r h k"],
    keys: Float[Array, "b l h k"],
    values: Float[Array, "b l h k"],
    mask: Bool[Array, "b 1 #r l"],
    site: str,
    product: Product,
    drop: Callable[[Array], Array],
    rank: Callable[[Array, int], Array] | None = None,
) -> tuple[Float[Array, "b r h k"], Float[Array, "b l"] | None]:
    """Attention as two products around a softmax; `drop` is dropout, applied to the probabilities."""
    axis, scaled = softmax_axis(), queries * queries.shape[-1] ** -0.5
    order, visible = ("bhqm", mask) if axis == -1 else ("bhmq", mask.swapaxes(2, 3))
    scores = product(f"{site}/scores", f"bqhk,bmhk->{order}", scaled, keys).astype(jnp.float32)
    # The lowest finite number, not -inf: a row without any visible key (batch padding) would become NaN.
    masked = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(masked, axis=axis)
    ranked = None if rank is None else rank(probabilities, axis)
    probabilities = drop(probabilities).astype(values.dtype)
    return product(f"{site}/context", f"{order},bmhk->bqhk", probabilities, values), ranked


def fused_attention(
    kernel: Literal["cudnn", "flash"],
    queries: Float[Array, "b l h k"],
    keys: Float[Array, "b l h k"],
    values: Float[Array, "b l h k"],
    segments: Int[Array, "b l"],
) -> Float[Array, "b l h k"]:
    """softmax(q k / sqrt(k)) v within each segment, in the dtype of the queries."""
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
    """NVIDIA's kernel. It takes the mask as an array: two bytes for every pair of tokens in a row, shared by all
    heads."""
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

    # Up to 512 tokens are one block with a plain softmax; longer rows use several blocks and an online softmax.
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
    """Runs the kernel on every device for that device's rows.

    XLA partitions its own operations, but not a custom kernel. The mesh is that of the arrays, as `jit` knows it from
    its arguments. If the batch does not divide over it, every device computes all rows.
    """
    mesh = jax.typeof(arrays[0]).sharding.mesh
    if mesh.empty or mesh.size == 1:
        return kernel(*arrays)
    rows = PartitionSpec(mesh.axis_names if arrays[0].shape[0] % mesh.size == 0 else None)
    return jax.shard_map(kernel, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)(*arrays)
