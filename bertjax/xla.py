"""Who computes products and sums for XLA on a CPU, chosen by what was measured.

jaxlib 0.10 gives both to YNNPACK. Its matrix products reach two thirds of the speed of Eigen's once they have a
thousand rows (AVX-512, 175 against 250 GFLOP/s), yet it is ahead for the few rows of a single sentence, and sums a long
array, such as a gradient for its norm, fifteen times as fast. The choice is an option of a compilation: the rest of the
process is not concerned, and a backend that does not know the option is not given it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

OPTION = "xla_cpu_experimental_ynn_fusion_type"
SUMS_BY_YNNPACK = {OPTION: "LIBRARY_FUSION_TYPE_REDUCE"}
ALL_BY_EIGEN = {
    OPTION: "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
}  # There are none. XLA takes no empty list quietly.
MANY_ROWS = 1024


class Forward:
    """`jax.jit` of a forward pass `(model, params, ids, *others)`, compiled for one sentence or for many by the size of
    ids. The model is static, and whatever else is named."""

    def __init__(self, function: Callable[..., Any], static: tuple[str, ...] = ()):
        self._function, self._static = function, ("model", *static)
        self._jitted: dict[bool, Any] = {}

    def __call__(self, model: Any, params: Any, ids: Any, *others: Any) -> Any:
        return self._sized(ids)(model, params, ids, *others)

    def lower(self, model: Any, params: Any, ids: Any, *others: Any) -> Any:
        """As of a jitted function."""
        return self._sized(ids).lower(model, params, ids, *others)

    def _sized(self, ids: Any) -> Any:
        many = ids.size >= MANY_ROWS
        if many not in self._jitted:
            options = ALL_BY_EIGEN if many and knows_option() else {}
            self._jitted[many] = jax.jit(self._function, static_argnames=self._static, compiler_options=options)
        return self._jitted[many]


def training_options() -> dict[str, str]:
    """Compiler options of a training step."""
    return SUMS_BY_YNNPACK if knows_option() else {}


@lru_cache(maxsize=1)
def knows_option() -> bool:
    """Whether this backend's compiler takes the option: a CPU, and a jaxlib that still has it."""
    if jax.default_backend() != "cpu":
        return False
    try:
        for options in (SUMS_BY_YNNPACK, ALL_BY_EIGEN):
            jax.jit(lambda x: x + 1, compiler_options=options).lower(jnp.zeros(())).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
