"""Progressive training: in each phase more parameters are trained."""

from collections.abc import Callable
from typing import Any, NamedTuple

from bertjax.params import Tree, assign


class Phases(NamedTuple):
    """Phases of equal length, each of which starts to train some parameters; after the last phase all are trained."""

    count: int
    steps: int
    """Steps per phase."""
    first: tuple[tuple[str, int], ...]
    """Rules (regex, phase in which training starts). Parameters without a rule start after the last phase."""
    below: float
    """Factor of the learning rate for parameters that started in an earlier phase."""

    def still(self, trained: Tree, step: Any) -> dict[str, Any]:
        """Whether each parameter waits for its phase, by path; those that start in the first are left out."""
        starts = assign(self.first, trained, self.count)
        return {path.removeprefix("params/"): step < first * self.steps for path, first in starts.items() if first}

    def share(self, first: int, step: Any) -> Any:
        """The factor of the learning rate at a step, for parameters that start in phase `first`."""
        import jax.numpy as jnp  # jobs import this module to build a command line, which needs no jax

        phase = step // self.steps
        return jnp.where(phase < first, 0.0, jnp.where((phase > first) & (phase < self.count), self.below, 1.0))


class Curriculum(NamedTuple):
    """A run that begins with steps of another kind."""

    phases: Phases
    terms: Callable[..., dict[str, Any]]
    """`(student model, params, teacher params, batch, step, key, afterwards) -> terms`: the terms of a step; those of
    `afterwards()` once the phases are over."""
