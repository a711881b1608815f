"""Lottery tickets (Frankle & Carbin 2019; for BERT Chen et al. 2020): masks of weights from which training starts anew.

A ticket is a mask for each prunable matrix, and belongs to certain weights, usually those of the pre-trained model.
Chen et al. find it by iterations: train, prune the smallest of the weights that are left, put the others back to where
they began. They report tickets of 40 to 90 % zeros that train as well as the whole model. The trade-off: each iteration
costs a whole training, and the zeros save no time; `bertjax.prune.surgery` removes parts, which does.

The file holds the masks as bits and, for each matrix, a digest of the weights that it belongs to, so that a ticket is
never laid over another model unnoticed. Matrices of the model that the masks leave out (embeddings, head) are free.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from bertjax.errors import UserError
from bertjax.learn.transform import Transform, Update
from bertjax.params import Tree, flatten, select, unflatten
from bertjax.prune.transforms import Masked

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from bertjax.model import BertConfig
    from bertjax.storage.paths import PathLike

PRUNABLE = r"^(encoder/layer_\d+/(attention/(query|key|value|output)|ffn/(intermediate|output))|pooler)/kernel$"
"""The matrices of the official code: those of attention and feed-forward layers, and that of the pooler."""
FILE = "ticket.safetensors"
FORMAT = "bertjax.ticket.1"


class StoredTicket(NamedTuple):
    """The content of a ticket's file."""

    masks: Tree
    """True where a weight is kept."""
    digests: dict[str, str]
    """By the path of each matrix, the digest of the weights that the ticket belongs to."""
    made_by: dict[str, Any]
    """How it was made."""
    sparsity: float


@dataclass(frozen=True)
class Ticket(Masked):
    """The zeros of a lottery ticket stay zeros, whatever the training."""

    path: str = f"runs/ticket/{FILE}"
    """The file that `bertjax ticket` writes."""

    def zeroed(self, params: Tree) -> tuple[str, ...]:
        return tuple(flatten(fitting_masks(self.path, params)))

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        return {}, fitting_masks(self.path, params)


@dataclass(frozen=True)
class Snapshot(Transform):
    """Keeps, as its state, a copy of the weights after a fraction of the steps: what later iterations rewind to."""

    fraction: float = 0.1

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        import jax
        import numpy as np

        return {}, jax.tree.map(np.array, params)

    def advance(self, update: Update, params: Tree, extra: Tree, state: Tree) -> Tree:
        import jax

        last = min(update.total - 1, max(1, round(self.fraction * update.total)))
        return jax.lax.cond(update.step == last, lambda: params, lambda: state)


def unpruned(params: Tree, newly_initialized: tuple[str, ...] = ()) -> Tree:
    """Masks that keep everything, for the prunable matrices. A pooler that was drawn at random is not one of them: it
    is another one in the next task."""
    import numpy as np

    chosen = {path: leaf for path, leaf in flatten(select(PRUNABLE, params)).items() if path not in newly_initialized}
    if not chosen:
        raise UserError("the model has no attention and feed-forward kernels to prune; give a BERT in floating point.")
    return unflatten({path: np.ones(leaf.shape, bool) for path, leaf in chosen.items()})


def without_smallest(masks: Tree, params: Tree, sparsity: float) -> Tree:
    """Masks in which this fraction of all weights is pruned, rounded to the nearest: those pruned before, then the
    smallest of the others, all matrices together."""
    import jax
    import numpy as np

    from bertjax.prune.masks import drop_smallest

    return jax.tree.map(np.asarray, drop_smallest(masks, params, "global", lambda n: round(sparsity * n)))


def random_masks(masks: Tree, sparsity: float, seed: int) -> Tree:
    """Masks of the same shapes in which this fraction of all weights, drawn at random, is pruned."""
    import numpy as np

    flat = flatten(masks)
    ends = np.cumsum([mask.size for mask in flat.values()])
    kept = np.arange(ends[-1]) >= round(sparsity * ends[-1])
    np.random.default_rng(seed).shuffle(kept)
    parts = np.split(kept, ends[:-1])
    return unflatten({path: part.reshape(flat[path].shape) for path, part in zip(flat, parts, strict=True)})


def shuffled(params: Tree, masks: Tree, seed: int) -> Tree:
    """The parameters with the entries of each masked matrix in random order."""
    import numpy as np

    rng, flat = np.random.default_rng(seed), dict(flatten(params))
    for path in flatten(masks):
        leaf = np.asarray(flat[path])
        flat[path] = rng.permutation(leaf.ravel()).reshape(leaf.shape)
    return unflatten(flat)


def rewound(params: Tree, trained: Tree | None) -> Tree:
    """The parameters to begin the next iteration with: `params`, with the task head of the `trained` ones if there are
    any. Everything but embeddings, encoder and pooler is the head."""
    head = {name: part for name, part in (trained or {}).items() if name not in ("embeddings", "encoder", "pooler")}
    return {**params, **head}


def digest(leaf: Any) -> str:
    """The digest of a matrix's bytes in float32."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(leaf, np.float32).tobytes()).hexdigest()[:16]


def write_ticket(path: PathLike, masks: Tree, params: Tree, made_by: dict[str, Any]) -> None:
    """Writes the file of a ticket that belongs to `params`."""
    import numpy as np
    from safetensors.numpy import save

    from bertjax.prune.masks import sparsity_of
    from bertjax.storage.paths import write_bytes

    flat, weights = flatten(masks), flatten(params)
    matrices = {
        name: {"shape": mask.shape, "zeros": int(mask.size - mask.sum()), "digest": digest(weights[name])}
        for name, mask in flat.items()
    }
    metadata = {
        "format": FORMAT,
        "sparsity": str(round(sparsity_of(masks), 6)),
        "made_by": json.dumps(made_by, ensure_ascii=False),
        "matrices": json.dumps(matrices),
    }
    write_bytes(path, save({name: np.packbits(mask) for name, mask in flat.items()}, metadata))


def read_ticket(path: PathLike) -> StoredTicket:
    """The content of a ticket's file.

    Raises:
      UserError: No such file, another kind of file, or a damaged one.
    """
    from bertjax.storage.paths import as_path, local
    from bertjax.storage.tensors import stored_arrays, stored_metadata

    if not as_path(path).is_file():
        raise UserError(f"no lottery ticket at {path}; give the file that `bertjax ticket` writes, OUT/{FILE}.")
    file = local(path)
    arrays, metadata = stored_arrays(file), stored_metadata(file)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is no lottery ticket; give the file that `bertjax ticket` writes, OUT/{FILE}.")
    try:
        matrices = json.loads(metadata["matrices"])
        flat = {name: unpacked(arrays[name], about["shape"], about["zeros"]) for name, about in matrices.items()}
        masks, digests = unflatten(flat), {name: str(about["digest"]) for name, about in matrices.items()}
        made_by, sparsity = dict(json.loads(metadata["made_by"])), float(metadata["sparsity"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged: its masks do not fit its list of matrices; make it again.") from None
    return StoredTicket(masks, digests, made_by, sparsity)


def unpacked(bits: np.ndarray, shape: list[int], zeros: int) -> np.ndarray:
    """A mask from its bits."""
    import math

    import numpy as np

    size = math.prod(shape)
    if any(type(one) is not int or one < 1 for one in shape) or bits.dtype != np.uint8 or bits.size != -(-size // 8):
        raise ValueError("another number of bits than its shape has")  # before anything of such a size is allocated
    mask = np.unpackbits(bits, count=size).astype(bool).reshape(shape)
    if mask.size - mask.sum() != zeros:
        raise ValueError("another number of zeros than when it was written")
    return mask


def fitting_masks(path: PathLike, params: Tree) -> Tree:
    """The masks of a ticket for the weights that it belongs to. A model without a pooler needs no mask for it.

    Raises:
      UserError: The ticket belongs to other weights.
    """
    ticket, weights = read_ticket(path), flatten(params)
    masks = {name: mask for name, mask in flatten(ticket.masks).items() if "pooler" in params or "pooler/" not in name}
    differences = []
    for name, mask in masks.items():
        if name not in weights:
            differences.append(f"it has no {name}")
        elif weights[name].shape != mask.shape:
            differences.append(f"the shape of {name} is {weights[name].shape}, the mask's {mask.shape}")
        elif digest(weights[name]) != ticket.digests[name]:
            differences.append(f"its {name} has other values")
    if differences:
        others = f", and {len(differences) - 1} more differences" if len(differences) > 1 else ""
        raise UserError(
            f"{path} belongs to other weights than those of this model: {differences[0]}{others}.\n"
            f"Begin with the model that the ticket was made for: {ticket.made_by.get('model', 'unknown')}.\n"
            "To keep the zeros of a model that was trained from it, use KeepZeros (--keep_zeros in distill, quantize)."
        )
    return unflatten(masks)
