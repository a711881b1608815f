"""Which layers, heads, neurons or weights are removed, by which scores, and the training afterwards."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.errors import UserError
from bertjax.prune.criteria import CRITERIA, Criterion, Random
from bertjax.recipes.data import EVERYDAY, OF_TRAINING, Data
from bertjax.recipes.distill import Recovery

CriterionName = Literal[
    "importance",
    "official",
    "transformers",
    "magnitude",
    "activity",
    "second_order",
    "random",
    "evenly_spaced",
    "leave_one_out",
]
PARTS = ("layers", "heads", "neurons", "weights")


@dataclass(frozen=True)
class Prune(Recovery):
    """Pruning as a stage of `compress`, with the training afterwards. The student is the pruned model."""

    job: ClassVar[str] = "bertjax.jobs.prune"

    name: str = "pruned"
    """Name of the result in the report."""
    layers: float = 0.0
    """Fraction of the layers to remove. Layers are removed first."""
    heads: float = 0.0
    """Fraction of the attention heads to remove, over all layers. Each layer keeps at least one (with
    --criterion=second_order it may lose all)."""
    neurons: float = 0.0
    """Fraction of the feed-forward neurons to remove, over all layers. Each layer keeps at least one (with
    --criterion=second_order it may lose all)."""
    speedup: float | None = None
    """In place of heads and neurons: how many times as fast the model has to be at batch 1, on texts of --data.eval.
    The smallest fraction of heads and neurons that is enough is found by measuring in JAX on this machine, or by
    --table. With --criterion=second_order, the number of heads and neurons of each layer is chosen from the table."""
    table: str | None = None
    """For speedup: the file latency.json of `bertjax latency`, which was measured with the runtime that will serve the
    model. Default: candidates are timed in JAX; with --criterion=second_order a table is measured in JAX first."""
    weights: float = 0.0
    """Fraction of the encoder's weights to set to 0 (unstructured sparsity, which saves no time)."""
    keep_layers: tuple[int, ...] = ()
    """In place of `layers`: the layers to keep, counted from 0."""
    criterion: CriterionName | Criterion = "importance"
    """Importance score. importance: gradient of a head's or neuron's gate, per example (Michel et al. 2019), which
    needs labels. official, transformers: what their programs compute instead, for heads. magnitude: size of the
    weights. activity: variance of the output. second_order: error in the layer's output, with the remaining weights
    corrected (ZipLM, Kurtic et al. 2023). random: the control. For layers: importance, random, evenly_spaced
    (every other one for half of them), or leave_one_out: the rise of the loss without the layer. In a config file also
    your own subclass of `bertjax.prune.Criterion`. Single weights are always pruned by magnitude."""
    pruning_end: float = 0.0
    """Fraction of the training steps over which the sparsity of weights grows (Zhu & Gupta 2017). 0: all at once,
    before training."""
    iterations: int = 1
    """Prune in this many iterations, each with new scores."""
    multiple: int = 1
    """Round the number of kept neurons per layer, and of columns of kept heads, up to a multiple of this (8, 64, 128),
    for the hardware."""
    pattern: Literal["global", "matrix", "row", "2:4"] = "global"
    """Where weights are compared: over all matrices, within a matrix, or within a row (what makes one output); 2:4 sets
    two of every four weights to 0, and `weights` is left out."""
    calibration_examples: int = 512
    """Training examples for the importance scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in PARTS:
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name}={getattr(self, name)}: expected a part of the whole, from 0 to below 1")
        for name in ("iterations", "multiple", "calibration_examples"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}={getattr(self, name)}: expected 1 or more")
        if self.speedup is not None and not self.speedup > 1:
            raise UserError(f"--speedup={self.speedup}: expected more than 1, as 2 for half of the time")
        if self.table and self.speedup is None:
            raise UserError(f"--table={self.table} is for --speedup: give both")
        if self.speedup is not None and (self.heads or self.neurons):
            raise UserError(f"--speedup={self.speedup} finds how many --heads and --neurons go: leave these two out")
        if not 0 <= self.pruning_end <= 1:
            raise UserError(f"--pruning_end={self.pruning_end}: expected a part of the steps, from 0 to 1")
        if self.pattern == "2:4" and self.weights not in (0.0, 0.5):
            raise UserError(f"--weights={self.weights}: with --pattern=2:4 half of the weights go; leave it out")
        if self.pruning_end and not (self.zeros and self.finetune_after):
            raise UserError(
                f"--pruning_end={self.pruning_end} is about --weights that become 0 while the rest recovers: give both"
            )
        parts = self.layers or self.heads or self.neurons or self.speedup or self.keep_layers
        if self.ticket and (parts or (self.zeros and not self.pruning_end)):
            raise UserError(
                f"--ticket={self.ticket} belongs to the weights of the whole model, and the pruned one has others; "
                "train the ticket first (bertjax finetune --ticket), or prune weights while it trains (--pruning_end)"
            )
        if self.iterations > 1 and not self.scores_by.repeats:
            raise UserError(f"--iterations={self.iterations}: --criterion={self.criterion} chooses once; leave it out")
        if self.keep_layers and self.layers:
            raise UserError(f"--keep_layers={self.keep_layers} and --layers={self.layers}: give one of the two")
        removed = {"layers": self.layers, "heads": self.heads or self.speedup, "neurons": self.neurons or self.speedup}
        for part, asked in removed.items():
            if asked and part not in self.scores_by.scored:
                able = ", ".join(name for name, one in CRITERIA.items() if part in one.scored)
                raise UserError(f"--criterion={self.criterion} cannot score {part}; for them there are {able}.")

    def check(self) -> None:
        if self.table:
            from bertjax.prune.costs import read_table

            read_table(self.table)

    @property
    def scores_by(self) -> Criterion:
        """The criterion itself."""
        if isinstance(self.criterion, Criterion):
            return self.criterion
        return Random(self.seed) if self.criterion == "random" else CRITERIA[self.criterion]

    @property
    def zeros(self) -> float:
        """Which part of the weights becomes 0."""
        return 0.5 if self.pattern == "2:4" else self.weights


@dataclass(frozen=True)
class Config(Prune):
    """Pruning."""

    everyday: ClassVar[tuple[str, ...]] = (
        *EVERYDAY,
        "layers",
        "heads",
        "neurons",
        "speedup",
        "criterion",
        *OF_TRAINING,
    )

    model: str = "runs/finetune/bundle"
    """The model: a folder or hf:NAME, in floating point, with a trained head."""
    teacher: str | None = None
    """The teacher of the training afterwards: a folder or hf:NAME. Default: the whole model."""
    outputs: str | None = None
    """Folder of the teacher's stored outputs, which several runs may share. Default: OUT/recovery/teacher."""
    data: Data = field(default_factory=Data)
    out: str = "runs/prune"
    """Folder for the model. OUT/cut holds it as it was before training."""
