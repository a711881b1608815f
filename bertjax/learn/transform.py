"""The base of every transform: what changes the student inside the training step, and never the teacher.

Rounding, masks, dropped layers and frozen parts are transforms. A step applies them in the order given, each to the
parameters that the one before it returned, and runs the model with the `Forward`s that they return. Every one owns two
trees: `extra`, which is trained and does not ship (scores, step sizes), and `state`, which is not differentiated
(masks). A transform in a user's own file subclasses `Transform` and works like those of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from bertjax.errors import UserError
from bertjax.params import Tree

if TYPE_CHECKING:
    from jax import Array

    from bertjax.bundle import Bundle
    from bertjax.learn.losses import Batch
    from bertjax.model import BertConfig, LayerGates, ModelOutput
    from bertjax.model.products import Product
    from bertjax.model.tokens import TokenRule


Surgery = Callable[["BertConfig", Tree], tuple["BertConfig", Tree]]
"""`(config, params) -> (config, params)`, with some rows and columns removed."""


class Update(NamedTuple):
    """One update of a run, as transforms and schedules see it."""

    step: Any
    """Its number, from 0; a traced integer inside the step."""
    key: Any
    """Its random key: the same on all devices and for all micro-batches."""
    total: int = 0
    """Updates of the whole run."""
    config: Any = None
    """The student's `BertConfig`."""


class Forward(NamedTuple):
    """How a transform changes the forward pass, besides the parameters."""

    gates: Sequence[LayerGates] | None = None
    """Multipliers of heads, neurons and layers, one entry per depth step; those of several transforms are
    multiplied."""
    columns: Any = None
    """Multipliers of the hidden columns [d]; those of several transforms are multiplied."""
    layers: Any = None
    """Booleans [depth]: which layers run. A layer that does not is the identity and costs no time. A layer runs if it
    runs for every transform."""
    product: Product | None = None
    """How matrix products are computed. Only one transform may give it."""
    retention: TokenRule | None = None
    """Which tokens go on after each layer. Only one transform may give it."""


@dataclass(frozen=True)
class Transform:
    """Changes the student inside the training step. Every member has a default that changes nothing."""

    stores_integers: ClassVar[bool] = False
    """Whether `finish` leaves integers, which no later transform can change."""
    removes_parts: ClassVar[bool] = False
    """Whether `removal` may remove rows and columns."""
    drops_tokens: ClassVar[bool] = False
    """Whether `apply` gives a `retention`. Losses on the states of all tokens are then refused, and packed rows."""

    def zeroed(self, params: Tree) -> tuple[str, ...]:
        """The paths of the matrices in which it sets weights to 0, which later transforms have to keep."""
        del params
        return ()

    def moves_zeros(self, params: Tree, path: str) -> bool:
        """Whether it gives zeros of this matrix another value."""
        del params, path
        return False

    def reads_whole(self, params: Tree) -> tuple[str, ...]:
        """The paths of matrices whose rows and columns it treats together, so that it would compute something else with
        some of them removed."""
        del params
        return ()

    @property
    def learning_rate(self) -> float | None:
        """The learning rate of its `extra`; None: that of the run."""
        return None

    def fit(self, student: Bundle, batches: Iterable[Batch]) -> Transform:
        """The transform with the settings that it finds on sample text before the first step."""
        del student, batches
        return self

    def frozen(self, config: BertConfig) -> tuple[str, ...]:
        """Regexes over parameter paths: parameters that never move. The step computes no gradient for them and the
        optimiser keeps no moments."""
        del config
        return ()

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        """Its `extra` and its `state` before the first step."""
        del key, config, params
        return {}, {}

    def advance(self, update: Update, params: Tree, extra: Tree, state: Tree) -> Tree:
        """The state of this update: called once per update, before the gradient, and not differentiated."""
        del update, params, extra
        return state

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        """The parameters that the model computes with, and how it computes; a pure function."""
        del update, extra, state
        return params, Forward()

    def observe(self, update: Update, output: ModelOutput, batch: Batch) -> Tree:
        """Sums over the rows of a batch, such as those of activations; not differentiated. They are added up over all
        micro-batches and devices, and `advance` finds them in the next update as `state["observed"]`, which `init`
        begins with zeros of the same shapes. A filler row has `batch["weights"]` 0."""
        del update, output, batch
        return {}

    def penalties(self, update: Update, params: Tree, extra: Tree, state: Tree) -> dict[str, Array]:
        """Scalars that are added to the loss, by name."""
        del update, params, extra, state
        return {}

    def terms(
        self, update: Update, output: ModelOutput, batch: Batch, extra: Tree, state: Tree
    ) -> dict[str, tuple[Array, Array]]:
        """Further losses of a batch, by name: a sum over its examples, and the weight that the sum of the whole batch
        is divided by. The weight depends on the batch alone."""
        del update, output, batch, extra, state
        return {}

    def holds_still(self, update: Update, params: Tree, state: Tree) -> Tree:
        """A boolean for some of the parameters, by path: where true, the parameter gets no gradient, decay or update in
        this step, and its moments stay as they are."""
        del update, params, state
        return {}

    def project(self, extra: Tree, state: Tree) -> Tree:
        """Its `extra` after an update, brought back into its range."""
        del state
        return extra

    def finish(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> tuple[BertConfig, Tree]:
        """The model that ships, from the trained trees; called once, outside of jit, in the order of the transforms."""
        del extra, state
        return config, params

    def removal(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> Surgery | None:
        """What it removes of the model after `finish`: a function that takes rows and columns of arrays, whatever their
        values are. What later transforms own of these is removed, too. None: nothing."""
        del config, params, extra, state
        return None


def named(transforms: Sequence[Transform]) -> dict[str, Transform]:
    """The transforms by position and class, which name their trees.

    Raises:
      UserError: One follows one that stores integers.
    """
    for number, transform in enumerate(transforms):
        if number and transforms[number - 1].stores_integers:
            here, before = type(transform).__name__, type(transforms[number - 1]).__name__
            raise UserError(
                f"transforms: {here} follows {before}, which rounds to integers; give {before} last, and once "
                "(--qat adds it itself)."
            )
    return {f"{number}_{type(transform).__name__}": transform for number, transform in enumerate(transforms)}


def check_zeros(transforms: dict[str, Transform], params: Tree) -> None:
    """Refuses transforms that would give zeros of earlier ones another value."""
    zeroed: dict[str, str] = {}
    for transform in transforms.values():
        for path, earlier in zeroed.items():
            if transform.moves_zeros(params, path):
                here = type(transform).__name__
                raise UserError(
                    f"{earlier} keeps weights of {path} at 0, and the format that {here} rounds them to is asymmetric, "
                    "without an integer for 0; give it a symmetric or ternary one (weights, choices)."
                )
        zeroed |= dict.fromkeys(transform.zeroed(params), type(transform).__name__)


def check_removals(transforms: dict[str, Transform], params: Tree) -> None:
    """Refuses transforms that would compute something else with the rows and columns that remain than with all."""
    removing = ""
    for transform in transforms.values():
        if removing and (paths := transform.reads_whole(params)):
            raise UserError(
                f"transforms: {removing} removes rows or columns of {paths[0]}, and {type(transform).__name__} rounds "
                "it in blocks or with ternary weights, which depend on all of them; use one scale for each output or "
                "for the matrix."
            )
        if transform.removes_parts:
            removing = type(transform).__name__


def combined(forwards: dict[str, Forward]) -> dict[str, Any]:
    """The arguments of `BertModel.__call__`, and "product", that several `Forward`s give together.

    Raises:
      UserError: Two of them give a product, or a retention.
    """

    given: dict[str, Any] = {}
    for name, forward in forwards.items():
        if forward.product is not None:
            if "product" in given:
                raise UserError(f"transforms: {name} is the second to change how products are computed; give one.")
            given["product"] = forward.product
        if forward.retention is not None:
            if "token_rule" in given:
                raise UserError(f"transforms: {name} is the second to decide which tokens go on; give one.")
            given["token_rule"] = forward.retention
        if forward.layers is not None:
            given["switches"] = given["switches"] & forward.layers if "switches" in given else forward.layers
        if forward.columns is not None:
            given["columns"] = given["columns"] * forward.columns if "columns" in given else forward.columns
        if forward.gates is not None:
            gates = given.get("gates")
            given["gates"] = forward.gates if gates is None else multiplied(gates, forward.gates)
    return given


def multiplied(ours: Sequence[LayerGates], theirs: Sequence[LayerGates]) -> list[LayerGates]:
    """The products of two lists of gates; a missing multiplier is 1."""

    def both(a: Any, b: Any) -> Any:
        return b if a is None else a if b is None else a * b

    return [type(a)(*map(both, a, b)) for a, b in zip(ours, theirs, strict=True)]


@dataclass(frozen=True)
class Frozen(Transform):
    """Parameters that stay as they are, by regex over their paths."""

    pattern: str = "^embeddings/"

    def frozen(self, config: BertConfig) -> tuple[str, ...]:
        del config
        return (self.pattern,)
