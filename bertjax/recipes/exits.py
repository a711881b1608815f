"""Where a model gets exits, of which kind, and how they are trained."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.errors import UserError
from bertjax.recipes.data import Data
from bertjax.recipes.stage import TrainingStage


@dataclass(frozen=True)
class EarlyExit(TrainingStage):
    """Exits as a stage of `compress`: the recipe, without model, data and folder."""

    job: ClassVar[str] = "bertjax.jobs.exits"

    name: str = "exits"
    """What the result is called in the report."""
    after: tuple[int, ...] = ()
    """Layers with an exit, counted from 0; none given means all but the last. -1 is the embeddings, of which an exit
    can read the mean alone: a bag of words in front of the model."""
    head: Literal["own_pooler", "shared_pooler", "shared"] = "own_pooler"
    """A pooler and a classifier for each exit (DeeBERT), a classifier each behind the model's pooler (PABEE), or the
    model's own head everywhere."""
    reads: Literal["first", "mean"] = "first"
    """What an exit's own pooler reads: the first piece, as in DeeBERT, or the mean of all. The mean knows much more of
    the text in lower layers of models that were pre-trained with it, as the demo's was."""
    method: Literal["two_stage", "joint", "alternating", "self_distil"] = "two_stage"
    """How they are trained."""
    preset: Literal["paper", "official"] = "paper"
    """Of two_stage: the frozen layers run as in prediction, or with dropout, as in the code of DeeBERT."""

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

    model: str = "runs/finetune/bundle"
    """The model: a folder, hf:NAME, or demo. The frozen ways need one with a trained head."""
    data: Data = field(default_factory=Data)
    out: str = "runs/exits"
    """Folder for the model, its metrics and its checkpoints."""
