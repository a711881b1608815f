"""Where a model gets exits, of which kind, and how they are trained."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.errors import UserError
from bertjax.recipes.data import EVERYDAY, OF_TRAINING, Data
from bertjax.recipes.stage import TrainingStage


@dataclass(frozen=True)
class EarlyExit(TrainingStage):
    """Exits as a stage of `compress`: everything but model, data and folder."""

    job: ClassVar[str] = "bertjax.jobs.exits"

    name: str = "exits"
    """Name of the result in the report."""
    after: tuple[int, ...] = ()
    """Layers after which an exit is added, counted from 0. Default: all but the last. -1 is the embeddings; an exit
    there needs --reads=mean."""
    head: Literal["own_pooler", "shared_pooler", "shared"] = "own_pooler"
    """own_pooler: each exit has a pooler and a classifier (DeeBERT). shared_pooler: each exit has a classifier behind
    the model's pooler (PABEE). shared: the model's own head at every exit."""
    reads: Literal["first", "mean"] = "first"
    """What an exit's own pooler reads: the [CLS] token (DeeBERT), or the mean of all tokens, which holds more in the
    lower layers of models that were pre-trained with it (the demo model was)."""
    method: Literal["two_stage", "joint", "alternating", "self_distil"] = "two_stage"
    """How exits are trained. two_stage: a frozen fine-tuned model (DeeBERT). joint: with the model, later exits with
    larger weights (PABEE). alternating: last layer and all heads in turn (BERxiT). self_distil: frozen, the last layer
    is the teacher (FastBERT)."""
    preset: Literal["paper", "official"] = "paper"
    """For two_stage. paper: the frozen layers run without dropout. official: with dropout, as in the code of
    DeeBERT."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head == "shared" and self.frozen:
            raise UserError(
                f"--head=shared has no parameters besides the model's, which --method={self.method} freezes; "
                "use --method=joint or alternating."
            )
        if -1 in self.after and self.method == "joint":
            raise UserError(
                "--method=joint weighs an exit by its depth, and that of the embeddings (--after=-1) is 0: it would "
                "learn nothing; use another --method."
            )
        if self.preset == "official" and self.method != "two_stage":
            raise UserError(f"--preset=official says how two_stage differs; --method={self.method} has one form.")

    @property
    def frozen(self) -> bool:
        return self.method in ("two_stage", "self_distil")


@dataclass(frozen=True)
class Config(EarlyExit):
    """Exits."""

    everyday: ClassVar[tuple[str, ...]] = (*EVERYDAY, "after", "method", "head", "reads", *OF_TRAINING)

    model: str = "runs/finetune/bundle"
    """The model: a folder, hf:NAME, or demo. Methods that freeze it need a trained head."""
    data: Data = field(default_factory=Data)
    out: str = "runs/exits"
    """Folder for the model, its metrics and its checkpoints."""
