"""An initial projection from the student's width to the teacher's, fitted to hidden states on sample text.

A random projection has to be learned first, and gives the student noisy gradients meanwhile. The orthogonal map with
one scale that brings the student's states nearest to the teacher's has a closed form (Schönemann 1966). It preserves
every direction of the student's states, so every direction gets a training signal.

Least squares fits closer, but it shrinks directions that do not agree yet; for an untrained student it would shrink
nearly all of them. It is used only where the student is wider than the teacher, because no map preserves lengths there.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bertjax.bundle import Bundle
from bertjax.machine.xla import Forward
from bertjax.model import BertModel
from bertjax.params import Tree
from bertjax.text.batches import inputs_of

Pairs = tuple[tuple[int, int], ...]


def procrustes(
    own: Float[np.ndarray, "s s"], across: Float[np.ndarray, "s t"], size: float
) -> Float[np.ndarray, "s t"]:
    """The map K from the student's width to the teacher's.

    S and T are the states, one row per token. K = c U V' where S'T = U D V', and c makes the norm of S K equal to that
    of T. Where s > t, K is the least-squares solution of S'S K = S'T with the smallest norm.

    Args:
      own: S'S.
      across: S'T.
      size: The sum of the squares of T.
    """
    if own.shape[0] > across.shape[1]:
        return np.linalg.lstsq(own, across, rcond=1e-6)[0].astype(np.float32)
    left, _, right = np.linalg.svd(across, full_matrices=False)
    scale = np.sqrt(size / max(np.trace(own), np.finfo(np.float32).tiny))
    return (scale * left @ right).astype(np.float32)


def second_moments(
    student: Bundle, teacher: Bundle, pairs: Pairs, batches: Iterable[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray, float]:
    """S'S, S'T and the sum of the squares of T, over the real tokens and all pairs of hidden states, in float64."""
    total: Any = None
    for batch in batches:
        inputs, weights = inputs_of(batch), batch["attention_mask"] * batch["weights"][:, None]
        states = [
            hidden(bundle.model, bundle.device_params, *inputs, tuple(pair[i] for pair in pairs))
            for i, bundle in enumerate((student, teacher))
        ]
        found = jax.tree.map(lambda x: np.asarray(x, np.float64), products(*states, jnp.asarray(weights)))
        total = found if total is None else jax.tree.map(np.add, total, found)
    return total[0], total[1], float(total[2])


@partial(Forward, static=("places",))
def hidden(
    model: BertModel, params: Tree, ids: Array, mask: Array, types: Array, places: tuple[int, ...]
) -> list[Float[Array, "b l d"]]:
    output: Any = model.apply({"params": params}, ids, mask, types)
    return [output.hidden_states[place] for place in places]


@jax.jit
def products(
    student: list[Float[Array, "b l s"]], teacher: list[Float[Array, "b l t"]], weights: Float[Array, "b l"]
) -> tuple[Float[Array, "s s"], Float[Array, "s t"], Float[Array, ""]]:
    ours, theirs = (jnp.stack(x).astype(jnp.float32) for x in (student, teacher))
    ours, theirs = (jnp.where(weights[None, ..., None] > 0, x, 0.0) for x in (ours, theirs))
    product = partial(jnp.einsum, "nblx,nbly->xy")
    return product(ours, ours), product(ours, theirs), jnp.sum(jnp.square(theirs))
