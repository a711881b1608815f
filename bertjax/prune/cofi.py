"""Structure that is learned: gates decide which heads, neurons, sublayers and hidden columns stay (CoFi, Xia, Zhong &
Chen 2022).

Every part has a hard-concrete gate, and the gates are trained with the model. A Lagrangian drives the expected cost to
the target: its two multipliers ascend while the model descends. A target is a fraction of the weights or of the FLOPs
of the encoder's layers, or a speed-up by a table of measured times. From the fraction `end` of the steps on, every gate
is 0 or 1 for good and the model adapts to that; at the end what is gated by 0 is removed, exactly.

The authors' code multiplies the kept gates' values into the weights and fine-tunes in a second run. Here the kept ones
become 1, so that rounding in the same step rounds the weights that ship. The trade-off against scores computed once:
gates need thousands of updates, and dozens of runs differ more than one with fixed scores does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from bertjax.errors import UserError
from bertjax.learn.transform import Forward, Surgery, Transform, Update
from bertjax.params import flatten, unflatten

if TYPE_CHECKING:
    from jax import Array

    from bertjax.model import BertConfig, LayerConfig
    from bertjax.params import Tree
    from bertjax.prune.costs import Costs

Gated = Literal["heads", "attention", "neurons", "ffn", "columns"]
WHOLE = {"heads": "attention", "neurons": "ffn"}
"""The sublayer of each kind of part."""
PARTS = {whole: part for part, whole in WHOLE.items()}
FIRST_LOGIT = 2.0
"""At the beginning most gates are 1. The authors' code begins at 4.6, and at 0 for neurons, for runs of 20 epochs."""


@dataclass(frozen=True)
class CoFi(Transform):
    """Heads, neurons, whole sublayers and hidden columns are removed by gates that are trained with the model."""

    sparsity: float | None = None
    """Fraction of the weights of the encoder's layers that is removed."""
    flops: float | None = None
    """In place of `sparsity`: fraction of the arithmetic of these layers that is removed, for texts of `length`."""
    length: int = 128
    """For `flops`: tokens of a text."""
    speedup: float | None = None
    """In place of both: how many times as fast the model becomes by `table`."""
    table: str | None = None
    """For `speedup`: a table of measured times, the file latency.json of `bertjax latency`."""
    parts: tuple[Gated, ...] = ("heads", "attention", "neurons", "ffn", "columns")
    """What has gates: heads, whole attention sublayers, neurons, whole feed-forward sublayers, hidden columns."""
    warmup: float = 0.2
    """Fraction of the steps over which the target grows, linearly as published."""
    end: float = 0.6
    """Fraction of the steps after which the gates are decided."""
    gate_learning_rate: float = 0.05
    """Learning rate of logits and multipliers, with the schedule of the run. Published: 0.01, for 20 epochs."""

    removes_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        targets = {name: getattr(self, name) for name in ("sparsity", "flops", "speedup")}
        if sum(target is not None for target in targets.values()) != 1:
            given = ", ".join(f"{name}={target}" for name, target in targets.items())
            raise UserError(f"CoFi: {given}; give one of the three.")
        for name in ("sparsity", "flops"):
            if targets[name] is not None and not 0 <= targets[name] < 1:
                raise UserError(f"CoFi: {name} is {targets[name]}; it is the fraction removed, from 0 to below 1.")
        if self.length < 1:
            raise UserError(f"CoFi: length is {self.length}; expected 1 or more tokens.")
        if self.speedup is not None and not (self.speedup >= 1 and self.table):
            raise UserError(
                f"CoFi: speedup={self.speedup}, table={self.table}; expected a speed-up of at least 1 and the file of "
                "a table of measured times."
            )
        if self.table and self.speedup is None:
            raise UserError(f"CoFi: table={self.table} is for speedup; give both, or leave it out.")
        if not 0 <= self.warmup <= self.end <= 1 or not self.end:
            raise UserError(
                f"CoFi: warmup={self.warmup}, end={self.end}; expected 0 <= warmup <= end <= 1, end above 0."
            )
        if not self.parts or set(self.parts) - set(get_args(Gated)):
            raise UserError(f"CoFi: parts={self.parts}; expected one or more of {', '.join(get_args(Gated))}.")
        if self.speedup is not None and "columns" in self.parts:
            raise UserError("CoFi: the table of times knows no hidden columns; leave 'columns' out of parts.")

    @property
    def learning_rate(self) -> float | None:
        return self.gate_learning_rate

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        """Logits and multipliers, and decided gates that keep everything.

        Raises:
          UserError: The target is out of reach with all gates closed, or the model cannot be pruned like this.
        """
        import jax.numpy as jnp

        from bertjax.prune.hard_concrete import SMALLEST
        from bertjax.prune.hidden import check_columns
        from bertjax.prune.surgery import check_prunable, group_sizes

        check_prunable(config, params)
        if "columns" in self.parts:
            check_columns(config)
        sizes: dict[str, int] = {"columns": config.hidden_size}
        for part, whole, owner in (("heads", "attention", "attention"), ("neurons", "ffn", "ffn")):
            counts = group_sizes(config, owner)
            sizes |= {f"{part}/layer_{group}": count for group, count in counts.items() if count}
            sizes |= {f"{whole}/layer_{group}": 1 for group, count in counts.items() if count}
        gated = {path: count for path, count in sizes.items() if path.split("/")[0] in self.parts}
        logits = {path: jnp.full(count, FIRST_LOGIT, jnp.float32) for path, count in gated.items()}
        kept = {path: jnp.ones(count, jnp.float32) for path, count in gated.items()}
        closed = unflatten({path: jnp.full(count, SMALLEST, jnp.float32) for path, count in gated.items()})
        if (most := float(1 - self.remaining(config, closed))) < self.target:
            asked = f"speedup={self.speedup:g}" if self.speedup else f"{self.target:.0%} removed"
            reach = f"{1 / (1 - most):.2f} times as fast" if self.speedup else f"{most:.0%}"
            raise UserError(f"CoFi: {asked} was asked, and with all gates closed it is {reach}; ask for less.")
        return {"logits": unflatten(logits), "multipliers": jnp.zeros(2)}, unflatten(kept)

    def last(self, total: int) -> int:
        """The first update with decided gates; at least the last one trains with them."""
        return min(round(self.end * total), total - 1)

    def advance(self, update: Update, params: Tree, extra: Tree, state: Tree) -> Tree:
        """Decides the gates once."""
        import jax
        import jax.numpy as jnp

        from bertjax.prune.hard_concrete import decide

        now = update.step == self.last(update.total)
        return jax.tree.map(lambda logits, kept: jnp.where(now, decide(logits), kept), extra["logits"], state)

    def gates(self, update: Update, extra: Tree, state: Tree) -> dict[str, Array]:
        """The gates of an update by path."""
        import jax
        import jax.numpy as jnp

        from bertjax.prune.hard_concrete import draw

        decided, logits = flatten(state), flatten(extra["logits"])
        open_ = update.step < self.last(update.total)
        keys = jax.random.split(update.key, len(logits))
        return {
            path: jnp.where(open_, draw(key, logits[path]), decided[path])
            for key, path in zip(keys, logits, strict=True)
        }

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        from bertjax.model import LayerGates

        gates = self.gates(update, extra, state)

        def of(step: LayerConfig) -> LayerGates:
            attention, ffn = f"layer_{step.attention}", f"layer_{step.ffn}"
            return LayerGates(
                heads=gates.get(f"heads/{attention}"),
                neurons=gates.get(f"neurons/{ffn}"),
                attention=gates.get(f"attention/{attention}"),
                ffn=gates.get(f"ffn/{ffn}"),
            )

        steps = [of(step) for step in update.config.depth_steps()]
        return self.without_gone(params, state), Forward(gates=steps, columns=gates.get("columns"))

    def without_gone(self, params: Tree, state: Tree) -> Tree:
        """The parameters with zeros in the rows and columns that are removed at the end, so that a transform after this
        one, such as rounding, finds the ranges of what remains. Before the decision, all of them as they are."""
        import jax.numpy as jnp

        from bertjax.model.products import as_row
        from bertjax.prune.hidden import column_axes

        flat, kept = dict(flatten(params)), {path: jnp.asarray(gate) for path, gate in flatten(state).items()}

        def scale(path: str, gate: Any, axis: int) -> None:
            if path in flat:
                flat[path] = flat[path] * (gate[:, None] if axis == 0 else as_row(gate, flat[path].ndim))

        for path, gate in kept.items():
            part, _, layer = path.partition("/")
            site = f"encoder/{layer}/{WHOLE.get(part, part)}"
            inner = ("query", "key", "value") if site.endswith("attention") else ("intermediate",)
            if part == "columns":
                continue
            for name in inner:
                width = flat[f"{site}/{name}/bias"].shape[0]
                for leaf in ("kernel", "bias"):
                    scale(f"{site}/{name}/{leaf}", jnp.repeat(gate, width // len(gate)), 1)
            rows = flat[f"{site}/output/kernel"].shape[0]
            scale(f"{site}/output/kernel", jnp.repeat(gate, rows // len(gate)), 0)
            if part in PARTS:
                scale(f"{site}/output/bias", jnp.repeat(gate, flat[f"{site}/output/bias"].shape[0]), 1)
        if "columns" in kept:
            for path, axes in column_axes(flat).items():
                for axis in axes:
                    scale(path, kept["columns"], axis)
        return unflatten(flat)

    def zeroed(self, params: Tree) -> tuple[str, ...]:
        everywhere = "columns" in self.parts
        paths = (path for path in flatten(params) if path.endswith(("kernel", "embedding")))
        return tuple(path for path in paths if everywhere or path.startswith("encoder/"))

    def penalties(self, update: Update, params: Tree, extra: Tree, state: Tree) -> dict[str, Array]:
        """The Lagrangian (eq. 4) of the removed fraction of the cost, until the gates are decided."""
        import jax.numpy as jnp

        from bertjax.prune.lagrangian import lagrangian

        removed = 1 - self.remaining(update.config, extra["logits"])
        value = lagrangian(update, extra["multipliers"], removed, self.target, self.warmup)
        return {"lagrangian": jnp.where(update.step < self.last(update.total), value, 0.0)}

    @property
    def target(self) -> float:
        """The fraction of the cost that is to be removed."""
        if self.speedup is not None:
            return 1 - 1 / self.speedup
        return self.flops if self.flops is not None else self.sparsity or 0.0

    def remaining(self, config: BertConfig, logits: Tree) -> Any:
        """The expected cost as a fraction of the whole."""
        import jax.numpy as jnp

        from bertjax.prune.costs import LayerSizes, model_cost, total_cost
        from bertjax.prune.hard_concrete import kept_probability

        kept = {path: kept_probability(leaf) for path, leaf in flatten(logits).items()}

        def count(part: str, whole: str, group: int | None, size: int) -> Any:
            parts, sublayer = kept.get(f"{part}/layer_{group}"), kept.get(f"{whole}/layer_{group}")
            return (size if parts is None else parts.sum()) * (1.0 if sublayer is None else sublayer[0])

        sizes = [
            LayerSizes(
                count("heads", "attention", step.attention, step.num_attention_heads),
                count("neurons", "ffn", step.ffn, step.intermediate_size),
            )
            for step in config.depth_steps()
        ]
        width = jnp.sum(kept["columns"]) if "columns" in kept else config.hidden_size
        whole = model_cost(self.costs(config, config.hidden_size), config)
        return total_cost(self.costs(config, width), sizes) / whole

    def costs(self, config: BertConfig, width: Any) -> Costs:
        """What a part costs in a model with so many hidden columns: its weights, its FLOPs, or its milliseconds."""
        from bertjax.prune.costs import Flops, Weights, read_table

        if self.flops is not None:
            return Flops(config.head_size, self.length, width)
        if self.table is None:
            return Weights(config.head_size, width)
        table = read_table(self.table)
        table.check_model(config, self.table)
        return table

    def finish(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> tuple[BertConfig, Tree]:
        """The parameters with zeros in all rows and columns that go. Says so if the target was missed."""
        import warnings

        import jax
        import jax.numpy as jnp
        import numpy as np

        decided = jax.tree.map(lambda gate: (2 * jnp.asarray(gate) - 1) * 1000.0, state)  # probabilities of 0 and 1
        removed = 1 - float(self.remaining(config, decided))
        if abs(removed - self.target) > 0.02:
            what = {True: "milliseconds", False: "FLOPs" if self.flops is not None else "weights"}[bool(self.speedup)]
            warnings.warn(
                f"CoFi: {removed:.0%} of the {what} are removed, {self.target:.0%} was asked; with more steps, a later "
                "end or a higher gate_learning_rate the gates come closer.",
                stacklevel=2,
            )
        return config, jax.tree.map(np.asarray, self.without_gone(params, state))

    def removal(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> Surgery:
        """Without the parts whose gate is 0."""
        import numpy as np

        from bertjax.prune.hidden import keep_hidden
        from bertjax.prune.surgery import keep_heads, keep_neurons

        gates = {path: np.asarray(gate) for path, gate in flatten(state).items()}
        kept: dict[str, dict[int, list[int]]] = {"heads": {}, "neurons": {}}
        for path, gate in gates.items():
            part, _, layer = path.partition("/")
            if part in kept:
                whole = gates.get(f"{WHOLE[part]}/{layer}", np.ones(1))
                kept[part][int(layer.removeprefix("layer_"))] = np.flatnonzero(gate * whole).tolist()
            elif part in ("attention", "ffn") and not gate.all():
                kept[PARTS[part]].setdefault(int(layer.removeprefix("layer_")), [])

        def remove(config: BertConfig, params: Tree) -> tuple[BertConfig, Tree]:
            config, params = keep_heads(config, params, kept["heads"])
            config, params = keep_neurons(config, params, kept["neurons"])
            if "columns" not in gates:
                return config, params
            return keep_hidden(config, params, np.flatnonzero(gates["columns"]).tolist())

        return remove

    def project(self, extra: Tree, state: Tree) -> Tree:
        import jax
        import jax.numpy as jnp

        from bertjax.prune.hard_concrete import LARGEST, SMALLEST

        return {**extra, "logits": jax.tree.map(lambda x: jnp.clip(x, SMALLEST, LARGEST), extra["logits"])}
