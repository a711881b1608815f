"""XLA's CPU backend: the library that multiplies matrices in a forward pass, chosen by measurement.

jaxlib 0.10 uses YNNPACK. In a forward pass it is slower than Eigen from about a thousand rows on (two cores with
AVX-512: 350 against 380 GFLOP/s, and 175 against 250 beside other work), and faster for the few rows of a single
sentence; in a training step the two are equal. For int8 and bfloat16 YNNPACK is always better: Eigen takes ten and five
times as long. The choice is an option of one compilation, so it does not affect the rest of the process, and it is not
passed to a backend that does not support it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

# YNNPACK gets only the convolutions, of which BERT has none; XLA rejects an empty list.
BY_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"}
MANY_ROWS = 1024
_made_for: ContextVar[str | None] = ContextVar("made_for", default=None)


class Forward:
    """`jax.jit` of a forward pass `(model, params, ids, *others)`, compiled for few or many rows by the size of `ids`
    and the dtypes in the model's `config`. The model and the arguments in `static` are static."""

    def __init__(self, function: Callable[..., Any], static: tuple[str, ...] = ()):
        self.function, self._static = function, ("model", *static)
        self._jitted: dict[bool, Any] = {}
        self._bound: dict[tuple[Any, Any, bool], Any] = {}

    def __call__(self, model: Any, params: Any, ids: Any, *others: Any) -> Any:
        return self._sized(model, ids)(model, params, ids, *others)

    def bound(self, model: Any, params: Any) -> Callable[..., Any]:
        """The pass `(ids, *others)` of one model, for short calls: the model is hashed and its parameters are flattened
        once and not in every call, which takes 0.1 ms, or 0.25 for an early-exit model, with a cold processor cache.
        MiniLM computes 4 or 5 ms on one sentence."""
        leaves, tree = jax.tree.flatten(params)
        programs: dict[bool, Any] = {}

        def run(ids: Any, *others: Any) -> Any:
            many = ids.size >= MANY_ROWS
            if many not in programs:
                programs[many] = self._of(model, tree, ids)
            return programs[many](leaves, ids, *others)

        return run

    def _of(self, model: Any, tree: Any, ids: Any) -> Any:
        """One program for all callers that bind the same model."""
        key = model, tree, self._many(model, ids)
        if key not in self._bound:

            def function(leaves: list[Any], *inputs: Any) -> Any:
                return self.function(model, jax.tree.unflatten(tree, leaves), *inputs)

            self._bound[key] = jax.jit(function, compiler_options=options_for(key[-1]))
        return self._bound[key]

    def lower(self, model: Any, params: Any, ids: Any, *others: Any) -> Any:
        """As `lower` of a jitted function."""
        return self._sized(model, ids).lower(model, params, ids, *others)

    def _sized(self, model: Any, ids: Any) -> Any:
        many = self._many(model, ids)
        if many not in self._jitted:
            options = options_for(many)
            self._jitted[many] = jax.jit(self.function, static_argnames=self._static, compiler_options=options)
        return self._jitted[many]

    def _many(self, model: Any, ids: Any) -> bool:
        return ids.size >= MANY_ROWS and not has_narrow_products(model)


def options_for(many: bool) -> dict[str, Any]:
    return BY_EIGEN if many and knows_option() else {}


def has_narrow_products(model: Any) -> bool:
    """Whether this model multiplies integers or bfloat16."""
    config: Any = getattr(getattr(model, "model", model), "config", None)
    if config is None:
        return False
    integers = config.quantization is not None and bool(config.quantization.activations)
    return config.dtype == "bfloat16" or (integers and config.arithmetic == "integer")


@lru_cache(maxsize=1)
def knows_option() -> bool:
    """Whether this backend has the option: a CPU, and a jaxlib that still has it."""
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda x: x + 1, compiler_options=BY_EIGEN).lower(jnp.zeros(())).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@contextmanager
def made_for(other: str) -> Iterator[None]:
    """Programs that are traced inside are for this platform, not for the one of the process."""
    token = _made_for.set(other)
    try:
        yield
    finally:
        _made_for.reset(token)


def platform() -> str:
    """The platform that programs are traced for: "cpu", "gpu" or "tpu"."""
    return _made_for.get() or jax.default_backend()
