"""Where a projection between two widths may begin: with what is already alike in the two models.

A projection of random numbers first has to learn what is where, and sends the student noise meanwhile. The orthogonal
map that brings the student's states nearest to the teacher's is known in closed form (Schönemann 1966): it turns and
scales, and forgets nothing, so that something is asked of every direction of the student. Least squares would come
nearer, but by shrinking what does not agree yet: of a student that knows nothing it would ask for nothing. It is what
is left for a student that is wider than its teacher, where no map keeps all lengths.
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

    With S and T for the states, one row a token: K = c U V' for S'T = U D V', and c makes S K as long as T altogether.
    Where s > t, least squares: the smallest solution of S'S K = S'T.

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
    """S'S, S'T and the sum of the squares of T over the real tokens of all pairs of hidden states, in float64."""
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
