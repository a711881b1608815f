"""Training on raw text: the vocabulary, the shape, the questions that are asked."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from bertjax.distill.progressive import Progressive
from bertjax.distill.terms import Loss
from bertjax.errors import UserError
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.training import Training
from bertjax.student import Student
from bertjax.text.masking import Masking
from bertjax.text.pairs import Sentences

VOCABULARY = 30_000
"""Pieces of a new vocabulary, if nothing is said."""


@dataclass(frozen=True)
class Text:
    """The text, and how to read it."""

    train: str = "demo"
    """Text to learn from: a .txt file or a folder of them, a table as other scripts read it, tfds:NAME/SPLIT, demo."""
    eval: str | None = None
    """Text to measure on at the end, of the same kinds."""
    text: str | None = None
    """Column of the text, in a table. None finds it by its usual names."""
    max_length: int = 128
    """Longest row in pieces, special ones included."""

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise UserError(f"--data.max_length={self.max_length}: expected at least 8 pieces, three of them special")


@dataclass(frozen=True)
class Shape:
    """A model that begins from nothing. With one group and embeddings of their own width, it is an ALBERT."""

    family: Literal["albert", "bert", "ib-bert"] = "albert"
    """ib-bert: MobileBERT's teacher, whose layers compute in another width than they hand on."""
    embedding_size: int = 128
    """Width of the embeddings. A BERT's is its hidden_size, unless it is to be factorised."""
    hidden_size: int = 256
    bottleneck_size: int = 1024
    """Width in which the layers of an ib-bert compute."""
    num_hidden_layers: int = 4
    num_hidden_groups: int = 1
    """Groups of layers that share their parameters; 0 shares nothing."""
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    max_position_embeddings: int = 512
    """Longest input that the model can ever read."""

    def config(self, vocab_size: int, architecture: str, **settings: Any) -> Any:
        """The `BertConfig`, for so many pieces."""
        from bertjax.model.config import PREFIXES, BertConfig, mobile_config

        kind: Any = "mobilebert" if self.family == "ib-bert" else self.family
        settings = {
            "architecture": PREFIXES[kind] + architecture,
            "vocab_size": vocab_size,
            "embedding_size": self.embedding_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_hidden_groups": self.num_hidden_groups,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": self.intermediate_size,
            "hidden_dropout_prob": self.hidden_dropout,
            "attention_probs_dropout_prob": self.attention_dropout,
            "max_position_embeddings": self.max_position_embeddings,
            **settings,
        }
        if self.family == "ib-bert":
            return mobile_config("teacher", intra_bottleneck_size=self.bottleneck_size, **settings)
        activation: Any = {"albert": "gelu_new", "bert": "gelu"}[self.family]
        return BertConfig(model_type=kind, hidden_act=activation, **settings)

    def differences(self, stored: Any) -> dict[str, Any]:
        """Of the fields that were given (they are not the usual ones), those in which a stored model differs, and what
        it has there."""
        other_names = {
            "family": "model_type",
            "hidden_dropout": "hidden_dropout_prob",
            "attention_dropout": "attention_probs_dropout_prob",
        }
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        asked = self.config(stored.vocab_size, "Model") if given else stored
        pairs = {name: other_names.get(name, name) for name in given}
        return {
            name: getattr(stored, there)
            for name, there in pairs.items()
            if getattr(stored, there) != getattr(asked, there)
        }


@dataclass(frozen=True)
class Config(Training):
    """Pre-training."""

    model: str | None = None
    """The model to begin with: a folder, hf:NAME, or demo. None begins from nothing, in the shape below."""
    shape: Shape = field(default_factory=Shape)
    vocab_size: int | None = None
    """Pieces of the vocabulary that is learnt from the text, 30,000 if nothing is said. A model given has its own."""
    data: Text = field(default_factory=Text)
    sentences: Sentences = "order"
    """What is asked of two segments: nothing, does the second follow (BERT), which came first (ALBERT's paper, or its
    authors' code, where some second segments are random)."""
    masking: Masking = field(default_factory=Masking)
    packed: bool = False
    """Several short rows in one, so that next to nothing is padding; good where attention is cheap."""
    mlm_weight: float = 1.0
    """Weight of guessing the hidden words. With 0 the model has no head for them, and learns from its teacher alone."""
    student: Student | None = None
    """In a config file: the shape of a smaller model, which is trained in place of the one given."""
    losses: tuple[Loss, ...] = ()
    """In a config file: what the student learns from the model given, besides guessing words."""
    progressive: Progressive | None = None
    """In a config file: the student first learns layer by layer from the model given, and words and losses in the steps
    that are left."""
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(learning_rate=1e-3))
    out: str = "runs/pretrain"
    """Folder for the model, its metrics and its checkpoints."""

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = {
            f"--mlm_weight={self.mlm_weight}: expected 0 or more": self.mlm_weight < 0,
            "a student learns from a model: give --model, its teacher": self.student and self.model is None,
            "losses are what a student learns: give student, its shape, in the config file": (
                (self.losses or self.progressive) and self.student is None
            ),
            "--mlm_weight=0 leaves nothing to learn: give a student, and losses": not (self.mlm_weight or self.losses),
            "--mlm_weight=0 leaves no head: give --sentences=none, and no --data.eval": (
                not self.mlm_weight and (self.sentences != "none" or self.data.eval is not None)
            ),
            "--masking.rate=0 hides no words to guess: give --mlm_weight=0 as well": self.mlm_weight
            and not self.masking.rate,
            "--packed: a teacher would take the texts of a row for one; leave it out": (
                self.packed and (self.losses or self.progressive)
            ),
        }
        if mistakes := [message for message, found in wrong.items() if found]:
            raise UserError(mistakes[0])
