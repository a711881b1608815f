"""A model as a sequence of segments, after each of which an example may exit.

The state is a tree whose leaves all have a row per example, so the remaining examples can be gathered into a smaller
one. With exits, a segment is itself a small model: the layers up to the next exit, under names of its own, and its
head. It has no layers where the exit is on the embeddings. Two segments of the same shape are then the same program
with other parameters, compiled once. With halting, the segment is the recurrent block, every step of it the same
program, and an example exits when all its positions have halted.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bertjax.adaptive.policies import Policy, policy_of
from bertjax.errors import UserError
from bertjax.model import BertConfig, BertModel, LayerConfig, build, key_mask
from bertjax.model.recurrence import RecurrentCarry, initial_halting
from bertjax.model.tokens import Tokens, all_tokens
from bertjax.params import Tree, put_step, step_params
from bertjax.quantized.formats import Quantization


class Carry(NamedTuple):
    """The state between two segments."""

    mask: Int[Array, "b l"]
    hidden: Float[Array, "b l d"] | RecurrentCarry
    memory: Any
    """What the policy remembers of each example."""
    places: Int[Array, "b s"] | tuple[()] = ()
    """Where in the text the token of each row stands; empty for a model that drops no tokens."""


class SegmentOutput(NamedTuple):
    """After a segment: the state, a flag for the examples that exit, and logits in float32."""

    rows: Carry
    exits: Bool[Array, "b"]
    logits: Float[Array, "b c"]


@runtime_checkable
class Segment(Protocol):
    """Hashable: the static half of a program. `number` counts segments."""

    def __call__(self, params: Tree, number: Int[Array, ""] | int, rows: Carry) -> SegmentOutput: ...


@dataclass(frozen=True)
class LayerSegment:
    """Some layers and the head after them: an exit, or without a `policy` the model's own head, where all exit."""

    model: BertModel
    policy: Policy | None

    def __call__(self, params: Tree, number: Int[Array, ""] | int, rows: Carry) -> SegmentOutput:
        del number
        variables: Any = {"params": params}
        output: Any = self.model.apply(variables, rows, self.policy is None, method=layers_and_head)
        rows, logits = output[0], output[1].astype(jnp.float32)
        if self.policy is None:
            return SegmentOutput(rows, jnp.ones(logits.shape[0], bool), logits)
        memory, exits = self.policy.decide(rows.memory, logits)
        return SegmentOutput(rows._replace(memory=memory), exits, logits)


def layers_and_head(module: BertModel, rows: Carry, last: bool) -> tuple[Carry, Array | None]:
    hidden: Any = rows.hidden
    real, first, tokens = rows.mask, None, None
    if module.config.retention:
        tokens = Tokens(rows.mask > 0, jnp.asarray(rows.places))
        real = tokens.real
    outputs = module.layers(hidden, key_mask(real, kernel=module.config.attention), tokens=tokens)
    if outputs:  # a segment whose exit is on the embeddings has no layers
        hidden, first = outputs[-1].hidden, outputs[-1].first
    if outputs and (tokens := outputs[-1].tokens) is not None:
        real, rows = tokens.real, rows._replace(places=tokens.places)
    rows = rows._replace(hidden=hidden)
    if last:
        return rows, module.finish(hidden, first=first)[0]
    return rows, module.exit(module.config.depth - 1, hidden, real)


@dataclass(frozen=True)
class RecurrentSegment:
    """One step of a recurrence with halting."""

    model: BertModel

    def __call__(self, params: Tree, number: Int[Array, ""] | int, rows: Carry) -> SegmentOutput:
        variables: Any = {"params": params}
        carry, logits = self.model.apply(variables, jnp.asarray(number), rows, method=step_and_head)  # type: ignore[misc]
        assert isinstance(logits, jax.Array)
        real = rows.mask > 0
        exits = jnp.all((carry.halting.total >= 1) | ~real, axis=1) | (number == self.model.config.depth - 1)
        return SegmentOutput(rows._replace(hidden=carry), exits, logits.astype(jnp.float32))


def step_and_head(module: BertModel, number: Int[Array, ""], rows: Carry) -> tuple[RecurrentCarry, Array | None]:
    encoder: Any = module.encoder
    positions = encoder.position_signals(jnp.arange(rows.mask.shape[1])[None])
    fixed = key_mask(rows.mask, kernel=module.config.attention), rows.mask > 0, positions
    carry, (output, _) = encoder.advance(rows.hidden, number, fixed)
    return carry, module.finish(output.hidden, first=output.first)[0]


@dataclass(frozen=True)
class SegmentedModel:
    """The static half of a model with early exit; `params_of` returns the parameters of its segments."""

    model: BertModel
    policy: Policy | None
    segments: tuple[Segment, ...]
    depths: tuple[int, ...]
    """The number of depth steps up to the end of each segment."""

    def start(self, rows: int) -> Any:
        """The memory of the policy before the first segment. Made outside of compiled programs, and an argument of
        them."""
        return () if self.policy is None else self.policy.start(rows)

    def begin(
        self, params: Tree, ids: Int[Array, "b l"], mask: Int[Array, "b l"], types: Int[Array, "b l"], memory: Any
    ) -> Carry:
        """The state of every example before the first segment."""
        variables: Any = {"params": params}
        hidden: Any = self.model.apply(variables, ids, types, method="embed")
        if self.policy is not None:
            places = all_tokens(mask > 0).places if self.model.config.retention else ()
            return Carry(mask, hidden, memory, places)
        return Carry(
            mask, RecurrentCarry(hidden, jnp.zeros(hidden.shape, jnp.float32), initial_halting(mask > 0)), memory
        )

    def params_of(self, params: Tree) -> tuple[Tree, ...]:
        """The parameters of each segment; segments that share them get the same arrays."""
        if self.policy is None:
            return (params,) * len(self.segments)
        starts = (0, *self.depths[:-1])
        return tuple(sub_model(self.model.config, params, *cut)[1] for cut in zip(starts, self.depths, strict=True))


def segmented_model(config: BertConfig, policy: Policy | None = None) -> SegmentedModel:
    """The segments of a model with exits (taken by the `policy`, or by the one that the config holds), or of a
    recurrence with halting.

    Raises:
      UserError: The model has neither exits nor halting.
    """
    model = build(config)
    if config.recurrence and config.recurrence.halting:
        return SegmentedModel(model, None, (RecurrentSegment(model),) * config.depth, tuple(range(1, config.depth + 1)))
    if config.exits is None:
        raise UserError(
            "this model has neither early exits nor a recurrence with halting; add exits (bertjax exits), or run all "
            "layers with predict."
        )
    policy = policy or policy_of(config)
    depths = (*(number + 1 for number in config.exits.after), config.depth)
    starts = (0, *depths[:-1])
    models = [build(sub_model(config, None, *cut)[0]) for cut in zip(starts, depths, strict=True)]
    inner = tuple(LayerSegment(one, policy) for one in models[:-1])
    return SegmentedModel(model, policy, (*inner, LayerSegment(models[-1], None)), depths)


def rounding_of(quantization: Quantization | None, start: int, stop: int) -> Quantization | None:
    """The activation formats of depth steps `start` to `stop` and of the head after them, under the site names of the
    sub-model. Formats of weights are left out: the parameters are already quantised, or are not."""
    if quantization is None:
        return None
    names = {f"step_{number}": f"step_{number - start}" for number in range(start, stop)}
    names[f"exit_{stop - 1}"] = f"exit_{stop - start - 1}"
    activations = []
    for site, activation in quantization.activations:
        first, _, rest = site.partition("/")
        if first in names:
            activations.append((f"{names[first]}/{rest}", activation))
        elif not first.startswith(("step_", "exit_")):
            activations.append((site, activation))
    return Quantization(activations=tuple(activations))


def sub_model(config: BertConfig, params: Tree | None, start: int, stop: int) -> tuple[BertConfig, Tree]:
    """Depth steps `start` to `stop` and the head after them as a model of their own, with parameter groups numbered
    from 0. Without `params`, only the config."""
    steps, names = config.depth_steps()[start:stop], {}
    for step in steps:
        for group in (step.attention, step.ffn, step.attention_norm, step.ffn_norm):
            names.setdefault(group, len(names))
    layers = tuple(
        LayerConfig(
            *step.shape, names[step.attention], names[step.ffn], names[step.attention_norm], names[step.ffn_norm]
        )
        for step in steps
    )
    assert config.exits is not None
    last, retention = stop == config.depth, config.retention
    if retention is not None:
        # Layers that go on with as many tokens as the segment begins with drop none.
        before = (1.0, *retention.shares)[start]
        shares = tuple(1.0 if share == before else share for share in retention.shares[start:stop])
        # Without layers, as before an exit on the embeddings, there is nothing to say.
        retention = dataclasses.replace(retention.of_steps(range(start, stop)), shares=shares) if shares else None
    exits = None if last else dataclasses.replace(config.exits, after=(len(steps) - 1,), exit_rule=None)
    small = config.replace(
        num_hidden_layers=len(steps),
        inner_group_num=1,
        num_hidden_groups=0,
        layers=layers,
        exits=exits,
        quantization=rounding_of(config.quantization, start, stop),
        retention=retention,
    )
    if params is None:
        return small, {}
    stack: Tree = {}
    for step, renamed in zip(steps, layers, strict=True):
        put_step(stack, renamed, step_params(params, step))
    head = {name: branch for name, branch in params.items() if name not in ("embeddings", "encoder", "exits")}
    if not last and config.exits.head == "own_pooler":
        head = {}
    if not last and config.exits.head != "shared":
        head["exits"] = {f"exit_{len(steps) - 1}": params["exits"][f"exit_{stop - 1}"]}
    return small, {"encoder": stack, **head}
