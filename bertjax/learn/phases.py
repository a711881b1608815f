"""Training in phases, each with the parameters that begin to learn in it."""

from typing import Any, NamedTuple


class Phases(NamedTuple):
    """Training in phases of equal length, each with the parameters that begin to learn in it; what follows the last of
    them is ordinary training of everything."""

    count: int
    steps: int
    """Of one phase."""
    first: tuple[tuple[str, int], ...]
    """Rules (regex, phase in which it begins to learn); what no rule names waits until the phases are over."""
    below: float
    """Share of the learning rate for what began in an earlier phase."""

    def share(self, first: int, step: Any) -> Any:
        """The share of the learning rate at a step, for what begins to learn in phase `first`."""
        import jax.numpy as jnp

        phase = step // self.steps
        return jnp.where(phase < first, 0.0, jnp.where((phase > first) & (phase < self.count), self.below, 1.0))
