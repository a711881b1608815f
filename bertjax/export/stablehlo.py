"""A bundle as a StableHLO program: one file for CPU, GPU and TPU, with the weights in a safetensors file beside it.

docs/serve_stablehlo.py reads the folder with jax, tokenizers and safetensors alone. The program is a function of the
weights (by name, in order), the ids, the mask and the token types. It returns the logits, and with early exits or
halting the number of depth steps that each text took as well.

The weights are arguments and not part of the program, so the program has only a few hundred kilobytes. Batch size and
sequence length are variable; each new pair is compiled once, so pad batches to a few lengths. Where tokens are dropped,
the number of rows after a layer is an expression of the length (with `multiple` it is the length: then dropping saves
nothing). With early exits the program is one loop over the layers, or branches inside of each other where tokens are
dropped. It ends when the last text of the batch has exited, so it saves time for single texts, and little in large
batches.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from bertjax.model import build
from bertjax.model.bert import BertModel
from bertjax.model.retention import Retention
from bertjax.params import Tree

PLATFORMS = ("cpu", "cuda", "tpu")
WHOLE = 4096
"""The denominator that shares are rounded up to: at most one row too many in 4096."""


@dataclass(frozen=True)
class OfAnyLength(Retention):
    """A retention for arrays of variable length. The number of tokens of a text is looked up as before. The size of the
    arrays is an expression of their length, which holds at least as many."""

    longest: int = 1

    def count(self, step: int, length: Any) -> Any:
        if isinstance(length, int):
            return super().count(step, length)
        if self.multiple > 1:  # rounded up it may exceed the length, and of the smaller of the two jax proves nothing
            return length
        share = max(1, ceil(self.shares[step] * WHOLE))
        return (share * length - 1) // WHOLE + 1

    def counts(self, step: int, longest: Any) -> tuple[int, ...]:
        del longest
        return super().counts(step, self.longest)


def program_and_weights(model: BertModel, params: Tree) -> tuple[bytes, dict[str, np.ndarray]]:
    """The serialised program `(weights, ids, mask, types) -> logits`, and the weights by their names in the file.

    A model with early exits or halting gives `(logits, depths)`. One without a head gives its last states in place of
    logits.
    """
    import jax
    import jax.numpy as jnp
    from jax import export

    named, tree = jax.tree_util.tree_flatten_with_path(params)
    leaves = [leaf for _, leaf in named]
    paths = [f"{n:04d}/{jax.tree_util.keystr(path, simple=True, separator='/')}" for n, (path, _) in enumerate(named)]
    model, most = of_any_length(model), model.config.max_tokens

    def call(weights: list[Any], ids: Any, mask: Any, types: Any) -> Any:
        return outputs(model, jax.tree.unflatten(tree, weights), ids, mask, types)

    shape = export.symbolic_shape("b, l", constraints=["l >= 2", "b*l >= b", f"l <= {most}"])
    batch = jax.ShapeDtypeStruct(shape, jnp.int32)
    weights = [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves]
    program = export.export(jax.jit(call), platforms=PLATFORMS)(weights, batch, batch, batch)
    return bytes(program.serialize()), {path: np.asarray(leaf) for path, leaf in zip(paths, leaves, strict=True)}


def of_any_length(model: BertModel) -> BertModel:
    """The same model, which drops tokens from arrays of variable length too."""
    config = model.config
    if config.retention is None:
        return model
    return build(config.replace(retention=OfAnyLength(**vars(config.retention), longest=config.max_tokens)))


def outputs(model: BertModel, params: Tree, ids: Any, mask: Any, types: Any) -> Any:
    """What the program returns."""
    import jax
    import jax.numpy as jnp

    from bertjax.adaptive.executors import run_loop
    from bertjax.adaptive.segments import segmented_model
    from bertjax.predict import forward

    config = model.config
    if config.exits and config.exits.exit_rule:
        segmented = segmented_model(config)
        start = jax.tree.map(lambda one: jnp.broadcast_to(one, mask.shape[0]), segmented.start(1))
        return run_loop.function(segmented, params, ids, mask, types, start)
    halts = config.recurrence is not None and config.recurrence.halting is not None
    if not halts and not config.architecture.endswith("Model"):
        return forward.function(model, params, ids, mask, types)
    output: Any = model.apply({"params": params}, ids, mask, types, stop_early=halts)
    found = last_states(model, params, output) if output.logits is None else output.logits
    found = found.astype(jnp.float32)
    return (found, jnp.max(output.trace.halting.steps, axis=1).astype(jnp.int32)) if halts else found


def last_states(model: BertModel, params: Tree, output: Any) -> Any:
    """The last state of every token [batch, length, d], also of those that were dropped."""
    if not output.tokens:
        return output.hidden_states[-1]
    return model.apply({"params": params}, output.hidden_states, output.tokens, None, method="restore")
