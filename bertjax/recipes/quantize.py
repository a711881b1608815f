"""How many bits weights and activations get, and whether training follows."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.distill.terms import Loss, SoftTargets
from bertjax.errors import UserError
from bertjax.quantized.formats import INT8, Format, full_int8
from bertjax.recipes.data import Data
from bertjax.recipes.stage import TrainingStage


@dataclass(frozen=True)
class Quantize(TrainingStage):
    """Quantisation as a stage of `compress`: the recipe, without model, data and folder."""

    job: ClassVar[str] = "bertjax.jobs.quantize"
    quantizes: ClassVar[bool] = True

    name: str = "int8"
    """What the result is called in the report."""
    weights: tuple[tuple[str, Format | None], ...] = INT8
    """In a config file: rules (regex, format) over parameter paths, the first match wins."""
    full_int8: bool = False
    """Kernels of 8 bits where the rules say 7. As a file they are exact on processors with VNNI, AMX or the dot product
    of Arm alone, or as slower unsigned bytes; those of 7 bits are exact everywhere. It changes the rules, and is then
    false again: two spellings of one recipe are one."""
    mean_bits: float | None = None
    """Bits that a weight of the encoder's layers may take in the mean, scales included: which layer gets which of
    `choices` is then found before anything else."""
    choices: tuple[Format, ...] = tuple(Format(bits, "asymmetric", block_cols=6) for bits in (2, 3, 4))
    """In a config file: what a layer may have, each with bits of its own."""
    sensitivity: Literal["loss", "curvature"] = "loss"
    """How it is found out what a layer bears: by rounding it, or by the curvature of the loss as in Q-BERT."""
    weight_range: Literal["min_max", "percentile", "least_squares"] = "least_squares"
    """How the range of a block of weights is found, where it does not follow from training."""
    activations: Literal["fixed", "token", "none"] = "fixed"
    """What products read. fixed: rounded in one range for every text; token: each token in its own; none: as it is."""
    bits: int = 8
    """Of what products read."""
    activation_range: Literal["min_max", "moving_average", "percentile", "least_squares"] = "percentile"
    """How a fixed range is found."""
    calibration_examples: int = 512
    """Training texts from which it is found."""
    qat: Literal["off", "ste", "lsq"] = "off"
    """Quantisation-aware training. off: no training. ste: straight-through rounding, ranges follow the weights. lsq:
    the scales are learned, too (LSQ, Esser et al. 2020)."""
    losses: tuple[Loss, ...] = (SoftTargets(temperature=1.0),)
    """What is learned from the model as it was."""
    keep_zeros: str | None = None
    """A regex over parameter paths: what of these matrices is 0 is 0 among the integers, too, whatever was learned in
    between. Needs formats that have a 0, symmetric or ternary."""
    delay: float = 0.0
    """Share of the steps before the inputs of products are rounded, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.full_int8:
            object.__setattr__(self, "weights", full_int8(self.weights))
            object.__setattr__(self, "full_int8", False)
        if self.attention != "xla":
            raise UserError(f"--attention={self.attention} cannot round what its products read; leave it at xla")
        if self.calibration_examples < 1:
            raise UserError(
                f"--calibration_examples={self.calibration_examples}: expected at least 1 text to find ranges from"
            )
        if len({format.bits for format in self.choices}) != len(self.choices):
            raise UserError("choices has two formats of as many bits; each needs bits of its own.")
        if not 0 <= self.delay < 1:
            raise UserError(f"--delay={self.delay}: expected a share of the steps, from 0 to below 1")

    @property
    def trains(self) -> bool:
        return self.qat != "off"


@dataclass(frozen=True)
class Config(Quantize):
    """Quantisation."""

    model: str = "runs/finetune/bundle"
    """The model: a folder or hf:NAME, in floating point, with a head for the task."""
    teacher: str | None = None
    """Who is learned from: a folder or hf:NAME. None is the model as it was."""
    data: Data = field(default_factory=Data)
    out: str = "runs/quantize"
    """Folder for the model, its metrics and its checkpoints."""
