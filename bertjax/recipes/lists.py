"""Lists to be copied by a Universal Transformer that halts by itself."""

from dataclasses import dataclass, field

from bertjax.errors import UserError
from bertjax.model.config import BertConfig, Halting, Recurrence
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.training import Training
from bertjax.text.lists import DIGITS, Lists


@dataclass(frozen=True)
class Config(Training):
    """Copying lists, with halting and at fixed depths."""

    steps: int | None = 1000
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(learning_rate=1e-3))
    lists: Lists = field(default_factory=Lists)
    hidden_size: int = 128
    intermediate_size: int = 512
    num_attention_heads: int = 4
    rounds: int = 8
    """How often the block is applied at most."""
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 8)
    """Fixed numbers of rounds to compare with; one model is trained for each."""
    ponder: float = 0.01
    """Price of a round."""
    bias: float = -2.0
    """Of the halting probability at the start: with -2, which is 0.12, no list halts before the eighth round."""
    test: int = 2000
    """Lists to test on."""
    timed: int = 64
    """How many of them are timed."""
    out: str = "runs/lists"
    """Folder for the models, their metrics and checkpoints, and the report."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("test", "timed"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}={getattr(self, name)}: expected at least 1 list")
        for depth in (self.rounds, *self.depths):
            self.model(depth, None)  # its own checks, while the command line can still be named

    def model(self, rounds: int, halting: Halting | None) -> BertConfig:
        """The block with so many rounds. A list halts as a whole, or at batch 1 one slow cell would hold up all."""
        return BertConfig(
            architecture="BertForTokenClassification",
            vocab_size=self.lists.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=1,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            hidden_act="relu",
            max_position_embeddings=self.lists.longest,
            type_vocab_size=0,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            labels=DIGITS,
            recurrence=Recurrence(rounds, "learned", "none", halting=halting),
            norm="pre",
            dtype=self.dtype,
            remat=self.remat,
            attention=self.attention,
        )

    def halting(self) -> Halting:
        return Halting("accumulated", remainder_at_end=True, bias=self.bias, scope="example")
