"""AdamW or LAMB with warm-up and decay, and rules for what learns how fast.

Rates are ordered `(regex, multiplier)` rules over `params/...` and `extra/...`; a multiplier of 0 freezes, weight decay
included. Biases and LayerNorm are never decayed, as in BERT. LAMB is for batches of thousands: AdamW whose update of
each array is scaled to that array's norm. As in ALBERT's code, what is not decayed is not scaled either: a bias begins
at 0, and an update of its own norm would hold it there. Unlike that code, and like the paper, moments are corrected for
their start at 0.
"""

from dataclasses import dataclass
from typing import Any, Literal

from bertjax.errors import UserError


@dataclass(frozen=True)
class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) or LAMB (You et al. 2020, algorithm 2)."""

    rule: Literal["adamw", "lamb"] = "adamw"
    """adamw, or lamb for batches of thousands."""
    learning_rate: float = 5e-5
    """Peak learning rate."""
    warmup: float = 0.1
    """Fraction of the steps over which the learning rate rises from 0."""
    decay: Literal["linear", "constant", "cosine"] = "linear"
    """What follows the warm-up: down to 0 at the last step, or constant."""
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    clip: float = 1.0
    """Largest global norm of the gradient."""
    rates: tuple[tuple[str, float], ...] = ()
    """Rules (regex, multiplier of the learning rate) over params/... and extra/...; the first match wins."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise UserError(f"--optimiser.learning_rate={self.learning_rate}: expected a positive number, 5e-5 for one")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"--optimiser.warmup={self.warmup}: expected a fraction of the steps, from 0 to 1")
        if not self.clip > 0:
            raise UserError(f"--optimiser.clip={self.clip}: expected a positive norm")

    def schedule(self, steps: int) -> Any:
        """The learning rate as a function of the step."""
        import optax

        warmup = round(self.warmup * steps)
        left = max(1, steps - warmup)
        after = {
            "linear": optax.linear_schedule(self.learning_rate, 0.0, left),
            "cosine": optax.cosine_decay_schedule(self.learning_rate, left),
            "constant": optax.constant_schedule(self.learning_rate),
        }[self.decay]
        if warmup == 0:
            return after
        # The first step already learns something: step k of the warm-up has rate (k + 1) / warm-up.
        rise = optax.linear_schedule(self.learning_rate / warmup, self.learning_rate, max(1, warmup - 1))
        return optax.join_schedules([rise, after], [warmup])

    def build(self, steps: int, trained: dict) -> Any:
        """The optax transformation for a tree `{"params": ..., "extra": ...}`."""
        import optax

        from bertjax.params import assign, map_with_path

        rates = assign(self.rates, trained, 1.0)
        multipliers = map_with_path(lambda path, _: rates[path], trained)
        decays = map_with_path(lambda path, _: not path.endswith(("/bias", "/scale", "_bias")), trained)
        rule = optax.chain(
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.epsilon),
            optax.add_decayed_weights(self.weight_decay, decays),
            *([optax.masked(optax.scale_by_trust_ratio(), decays)] if self.rule == "lamb" else []),
            optax.scale_by_learning_rate(self.schedule(steps)),
        )
        chain = [clip_by_global_norm(self.clip), rule]
        if self.rates:
            import jax

            scale = optax.stateless(lambda updates, _: jax.tree.map(lambda u, m: u * m, updates, multipliers))
            chain.append(scale)
        return optax.chain(*chain)


def clip_by_global_norm(limit: float) -> Any:
    """Scales the gradient down to a global norm of at most `limit` (Pascanu et al. 2013).

    optax's own chooses between two arrays for every parameter, which XLA writes and reads once more; a factor becomes
    part of the update.
    """
    import jax
    import jax.numpy as jnp
    import optax

    def clipped(updates: Any, _: Any) -> Any:
        factor = limit / jnp.maximum(optax.tree.norm(updates), limit)
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)

    return optax.stateless(clipped)
