"""How many bits weights and activations get, and whether training follows."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.distill.terms import Loss, SoftTargets
from bertjax.errors import UserError
from bertjax.quantized.formats import INT8, Format, full_int8
from bertjax.recipes.data import EVERYDAY, OF_TRAINING, Data
from bertjax.recipes.distill import DistillationStage


@dataclass(frozen=True)
class Quantize(DistillationStage):
    """Quantisation as a stage of `compress`: everything but model, data and folder."""

    job: ClassVar[str] = "bertjax.jobs.quantize"
    quantizes: ClassVar[bool] = True

    name: str = "int8"
    """Name of the result in the report."""
    weights: tuple[tuple[str, Format | None], ...] = INT8
    """In a config file: ordered rules (regex, format) over parameter paths; the first match wins."""
    full_int8: bool = False
    """Give kernels 8 bits where the rules say 7. An exported file of 8 bits is exact only on processors with VNNI, AMX
    or Arm's dot product, or as slower uint8; 7 bits are exact everywhere. (The flag rewrites the rules and is stored as
    false.)"""
    mean_bits: float | None = None
    """Average bits per weight of the encoder, scales included. The format of each layer is then chosen among
    `choices`."""
    choices: tuple[Format, ...] = tuple(Format(bits, "asymmetric", block_cols=6) for bits in (2, 3, 4))
    """In a config file: the formats that a layer can get, each with a different number of bits."""
    word_table_mb: float | None = None
    """Megabytes of the word table in the file, at most. Its bits (8 to 2, by row) and its width (a truncated singular
    value decomposition) are then chosen for the least error on the tokens of the training text."""
    sensitivity: Literal["loss", "curvature"] = "loss"
    """How sensitive a layer is to rounding. loss: the rise of the loss when the layer alone is rounded. curvature:
    largest Hessian eigenvalue times the squared error (Q-BERT, HAWQ)."""
    weight_range: Literal["min_max", "percentile", "least_squares"] = "least_squares"
    """Estimator of the range of a block of weights, where training does not learn it."""
    activations: Literal["fixed", "token", "none"] = "fixed"
    """Rounding of activations. fixed: one range for all text, found by calibration. token: a range for each token, as
    it comes. none: floating point."""
    bits: int = 8
    """Bits of activations."""
    activation_range: Literal["min_max", "moving_average", "percentile", "least_squares"] = "percentile"
    """Estimator of the fixed range of activations."""
    corrections: tuple[Literal["smooth", "bias"], ...] = ()
    """What makes rounding err less at no cost at run time, for fixed ranges without training. smooth: the sizes of
    channels move from inputs to weights where that changes nothing else (Xiao et al. 2023). bias: the mean error of
    each product is subtracted from its bias (Nagel et al. 2019)."""
    calibration_examples: int = 512
    """Training examples for calibration."""
    qat: Literal["off", "ste", "lsq"] = "off"
    """Quantisation-aware training. off: none. ste: straight-through rounding, the ranges follow the weights. lsq: the
    scales are trained, too (LSQ, Esser et al. 2020)."""
    losses: tuple[Loss, ...] = (SoftTargets(temperature=1.0),)
    """What quantisation-aware training learns from its teacher."""
    delay: float = 0.0
    """Fraction of the training steps before activations are rounded, too."""

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
        if (self.all_transforms or self.penalties) and not self.trains:
            raise UserError("a ticket, transforms and penalties act in training: give --qat=ste or --qat=lsq as well")
        if self.corrections and (self.trains or self.activations != "fixed"):
            raise UserError(
                f"--corrections={' '.join(self.corrections)} are for fixed ranges without training; expected "
                f"--activations=fixed and --qat=off, given {self.activations} and {self.qat}"
            )
        if self.word_table_mb is not None and not self.word_table_mb > 0:
            raise UserError(f"--word_table_mb={self.word_table_mb}: expected megabytes, more than 0")
        if not 0 <= self.delay < 1:
            raise UserError(f"--delay={self.delay}: expected a share of the steps, from 0 to below 1")

    @property
    def trains(self) -> bool:
        return self.qat != "off"


@dataclass(frozen=True)
class Config(Quantize):
    """Quantisation."""

    everyday: ClassVar[tuple[str, ...]] = (*EVERYDAY, "activations", "mean_bits", "qat", "full_int8", *OF_TRAINING)

    model: str = "runs/finetune/bundle"
    """The model: a folder or hf:NAME, in floating point, with a trained head."""
    teacher: str | None = None
    """The teacher of quantisation-aware training: a folder or hf:NAME. Default: the model itself before
    quantisation."""
    data: Data = field(default_factory=Data)
    out: str = "runs/quantize"
    """Folder for the model, its metrics and its checkpoints."""
