"""A bundle as a StableHLO program: one file for CPU, GPU and TPU, with the weights in a safetensors file beside it.

    import jax, numpy as np
    from jax import export
    from safetensors.numpy import load_file
    program = export.deserialize(open("model.stablehlo", "rb").read())
    stored = load_file("model.safetensors")
    weights = [stored[name] for name in sorted(stored)]
    ids = np.array([[101, 2307, 102]], np.int32)
    logits = jax.jit(program.call)(weights, ids, np.ones_like(ids), np.zeros_like(ids))

The weights are arguments and not part of the program, so the program has only a few hundred kilobytes. Batch size and
sequence length are variable; each new pair is compiled once.
"""

from typing import Any

import numpy as np

from bertjax.model.bert import BertModel

PLATFORMS = ("cpu", "cuda", "tpu")


def program_and_weights(model: BertModel, params: Any) -> tuple[bytes, dict[str, np.ndarray]]:
    """The serialised program `(weights, ids, mask, types) -> logits`, and the weights by their names in the file."""
    import jax
    import jax.numpy as jnp
    from jax import export

    from bertjax.predict import forward

    named, tree = jax.tree_util.tree_flatten_with_path(params)
    leaves = [leaf for _, leaf in named]
    paths = [f"{n:04d}/{jax.tree_util.keystr(path, simple=True, separator='/')}" for n, (path, _) in enumerate(named)]

    def call(weights: list[Any], ids: Any, mask: Any, types: Any) -> Any:
        return forward.function(model, jax.tree.unflatten(tree, weights), ids, mask, types)

    most = model.config.max_tokens
    shape = export.symbolic_shape("b, l", constraints=["l >= 2", "b*l >= b", f"l <= {most}"])
    batch = jax.ShapeDtypeStruct(shape, jnp.int32)
    weights = [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves]
    program = export.export(jax.jit(call), platforms=PLATFORMS)(weights, batch, batch, batch)
    return bytes(program.serialize()), {path: np.asarray(leaf) for path, leaf in zip(paths, leaves, strict=True)}
