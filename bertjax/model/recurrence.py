"""Universal Transformer: one block of layers applied repeatedly, with adaptive halting per position.

Dehghani et al. (2018) apply one Transformer layer several times and add position and time signals to the state at every
step. Adaptive Computation Time (Graves 2016) decides after which step each position halts. The paper leaves many
details open, and the official code differs from it in others; the fields of `Recurrence` and `Halting` name every
choice.

Training scans over all steps and masks halted positions, because reverse-mode gradients need a fixed number of steps.
Prediction (`stop_early`) loops until every real position has halted, with the same body and bit-identical results. The
trade-off of halting by position: a halted position is still computed while any other continues, so only whole batches
finish early.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bertjax.model.attention import Mask
from bertjax.model.depth import Recurrence
from bertjax.model.encoder import Encoder
from bertjax.model.layers import Dense, LayerGates, LayerOutput, parameter
from bertjax.model.products import as_row


class HaltingState(NamedTuple):
    """The halting statistics of each position, in float32."""

    total: Float[Array, "b l"]
    """Sum of halting probabilities, 1 once the position has halted. Padding starts at 1."""
    remainder: Float[Array, "b l"]
    """Weight of the step at which the position halted; 0 before. The only differentiable part of the ponder cost."""
    steps: Float[Array, "b l"]
    """Number of steps the position took, including the one at which it halted."""


class RecurrentCarry(NamedTuple):
    """The loop carry between steps."""

    state: Float[Array, "b l d"]
    output: Float[Array, "b l d"]
    halting: HaltingState


class Trace(NamedTuple):
    """Statistics of a recurrence: its last `HaltingState`, and the weight of each step in the output."""

    halting: HaltingState
    weights: Float[Array, "t b l"] | None
    """None with `stop_early`."""

    @property
    def ponder(self) -> Float[Array, "b l"]:
        """Ponder cost, steps plus remainder (Graves 2016, eq. 14). 0 for padding."""
        return self.halting.steps + self.halting.remainder


def initial_halting(real: Bool[Array, "b l"]) -> HaltingState:
    """The `HaltingState` before the first step."""
    zeros = jnp.zeros(real.shape, jnp.float32)
    return HaltingState(jnp.where(real, 0.0, 1.0), zeros, zeros)


def halt(
    before: HaltingState, probability: Float[Array, "b l"], last: Bool[Array, ""] | bool, epsilon: float
) -> tuple[HaltingState, Float[Array, "b l"]]:
    """One step of halting: the new state, and the weight of this step's result (Dehghani et al. 2018, appendix C).

    If `last` is true, every position that has not halted gets its remaining weight.
    """
    running = before.total < 1
    above = (before.total + probability > 1 - epsilon) | last
    still = jnp.where(running & ~above, probability, 0.0)
    rest = jnp.where(running & above, 1 - before.total, 0.0)
    after = HaltingState(
        jnp.where(running & above, 1.0, before.total + still),
        before.remainder + rest,
        before.steps + running.astype(jnp.float32),
    )
    return after, still + rest


def sinusoid(numbers: Float[Array, "*n"], width: int, layout: str) -> Float[Array, "*n d"]:
    """Sinusoids with frequencies from 1 down to 1/10000.

    interleaved: column 2j is sin(n / 10000^(2j/d)), column 2j + 1 its cosine (Vaswani et al. 2017, section 3.5).
    halves: all sines, then all cosines, with a last frequency of exactly 1/10000 (tensor2tensor); an odd width ends
    with a column of 0.
    """
    interleaved = layout == "interleaved"
    pairs = (width + 1) // 2 if interleaved else width // 2
    exponents = -2 * jnp.arange(pairs) / width if interleaved else -jnp.arange(pairs) / max(pairs - 1, 1)
    angles = numbers[..., None] * as_row(10000.0**exponents, numbers.ndim + 1)
    sines, cosines = jnp.sin(angles), jnp.cos(angles)
    if interleaved:
        return jnp.stack([sines, cosines], axis=-1).reshape(*numbers.shape, 2 * pairs)[..., :width]
    return jnp.concatenate([sines, cosines, jnp.zeros((*numbers.shape, width % 2))], axis=-1)


class RecurrentEncoder(Encoder):
    """The layers of the config as one recurrent block, with signals and halting."""

    def setup(self):
        super().setup()
        config, recurrence, width = self.config, self.recurrence, self.config.hidden_size
        small = nn.initializers.normal(config.initializer_range)
        if recurrence.positions == "learned":
            self.position_signal = parameter(self, "position_signal", small, (config.max_position_embeddings, width))
        if recurrence.times == "learned":
            self.time_signal = parameter(self, "time_signal", small, (recurrence.steps, width))
        if recurrence.halting is not None:
            self.halting = Dense(1, config.initializer_range, self.product, recurrence.halting.bias)

    @property
    def recurrence(self) -> Recurrence:
        assert self.config.recurrence is not None
        return self.config.recurrence

    def run(
        self,
        hidden: Float[Array, "b l d"],
        mask: Mask,
        real: Bool[Array, "b l"],
        position_ids: Int[Array, "#b l"],
        stop_early: bool,
    ) -> tuple[list[LayerOutput], Trace]:
        """The output of every step, or with `stop_early` only the last one, after as few steps as the batch needs.

        The output of a step is what the model would return if it ended there.
        """
        carry = RecurrentCarry(hidden, jnp.zeros(hidden.shape, jnp.float32), initial_halting(real))
        fixed = mask, real, self.position_signals(position_ids)
        if stop_early and not self.is_initializing():
            carry, last = self.loop(carry, fixed)
            return [last], Trace(carry.halting, None)
        body = nn.remat(RecurrentEncoder.advance) if self.config.remat else RecurrentEncoder.advance
        step_and_fixed: Any = (0, nn.broadcast)
        scan = nn.scan(
            body,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=step_and_fixed,
            length=self.recurrence.steps,
        )
        carry, (outputs, weights) = scan(self, carry, jnp.arange(self.recurrence.steps), fixed)
        steps = [jax.tree.map(lambda leaf, i=i: leaf[i], outputs) for i in range(self.recurrence.steps)]
        return steps, Trace(carry.halting, weights)

    def loop(self, carry: RecurrentCarry, fixed: tuple) -> tuple[RecurrentCarry, LayerOutput]:
        """The same steps in a while loop, until every real position has halted."""
        state, heads = carry.state, self.config.depth_steps()[-1].num_attention_heads
        by_head = jnp.zeros((*state.shape[:2], heads, self.config.head_size), state.dtype)
        initial = LayerOutput(state, state[:, 0], by_head, by_head, by_head)

        def unfinished(
            _: nn.Module, looped: tuple[Array, RecurrentCarry, LayerOutput]
        ) -> Any:  # an Array; Flax annotates bool
            number, carry, _output = looped
            steps_remain = number < self.recurrence.steps
            return steps_remain & jnp.any(carry.halting.total < 1) if self.recurrence.halting else steps_remain

        def run_step(module: "RecurrentEncoder", looped: tuple) -> tuple:
            number, carry, _output = looped
            carry, (output, _) = module.advance(carry, number, fixed)
            return number + 1, carry, output

        _, carry, last = nn.while_loop(
            unfinished, run_step, self, (jnp.array(0), carry, initial), split_rngs={"dropout": True}
        )
        return carry, last

    def advance(
        self, carry: RecurrentCarry, number: Int[Array, ""], fixed: tuple
    ) -> tuple[RecurrentCarry, tuple[LayerOutput, Array]]:
        """One step through the whole block."""
        mask, real, signals = fixed
        signalled = carry.state.astype(jnp.float32) + signals + self.time_signals(number)
        state = signalled.astype(carry.state.dtype)
        halting, weight = self.decide(state, real, number, carry.halting)
        result = None
        for layer in range(len(self.config.depth_steps())):
            result = self.step(layer, state if result is None else result.hidden, mask, LayerGates())
        assert result is not None
        output, state = result.hidden.astype(jnp.float32), result.hidden
        rule = self.recurrence.halting
        if rule is not None:
            share = weight[..., None]
            output = share * output + (carry.output if rule.output == "accumulated" else (1 - share) * carry.output)
            if rule.halted == "frozen":
                state = jnp.where((carry.halting.total < 1)[..., None], state, carry.state)
        hidden = output.astype(state.dtype)
        if self.config.norm == "pre":
            hidden = self.last_norm(hidden)
        result = result._replace(hidden=hidden, first=hidden[:, 0])
        return RecurrentCarry(state, output, halting), (result, weight)

    def decide(
        self, state: Float[Array, "b l d"], real: Bool[Array, "b l"], number: Int[Array, ""], before: HaltingState
    ) -> tuple[HaltingState, Float[Array, "b l"]]:
        """The halting state after this step, and the weight of its result."""
        rule = self.recurrence.halting
        if rule is None:
            return before._replace(steps=before.steps + real), real.astype(jnp.float32)
        probability = jax.nn.sigmoid(self.halting(state.astype(jnp.float32), "halting")[..., 0])
        if rule.scope == "example":
            counted = jnp.where(real, probability, 0.0)
            mean = jnp.sum(counted, axis=1, keepdims=True) / jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
            probability = jnp.broadcast_to(mean, probability.shape)
        last = (number == self.recurrence.steps - 1) & rule.remainder_at_end
        return halt(before, probability, last, rule.epsilon)

    def position_signals(self, ids: Int[Array, "#b l"]) -> Float[Array, "..."]:
        recurrence = self.recurrence
        if recurrence.positions == "none":
            return jnp.zeros((1, 1, 1))
        if recurrence.positions == "learned":
            return jnp.take(self.position_signal, ids, axis=0, mode="clip")
        return sinusoid((ids + recurrence.first).astype(jnp.float32), self.config.hidden_size, recurrence.layout)

    def time_signals(self, number: Int[Array, ""]) -> Float[Array, "..."]:
        recurrence = self.recurrence
        if recurrence.times == "none":
            return jnp.zeros((1, 1, 1))
        if recurrence.times == "learned":
            row = self.time_signal[number]
        else:
            row = sinusoid((number + recurrence.first).astype(jnp.float32), self.config.hidden_size, recurrence.layout)
        return as_row(row, 3)
