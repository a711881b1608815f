"""Training on raw text: the vocabulary, the shape, the questions that are asked."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from bertjax.distill.progressive import Progressive
from bertjax.distill.terms import Loss
from bertjax.errors import UserError
from bertjax.recipes.data import EVERYDAY, OF_TRAINING
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.training import Training, check_parts
from bertjax.student import Student
from bertjax.text.masking import Masking
from bertjax.text.pairs import Sentences

VOCABULARY = 30_000
"""Pieces of a new vocabulary, if nothing is said."""


@dataclass(frozen=True)
class Text:
    """The text, and how to read it."""

    train: str = "demo"
    """Training text: a .txt file or a folder of them, a table, tfds:NAME/SPLIT, or demo."""
    eval: str | None = None
    """Text for the evaluation at the end, of the same kinds."""
    text: str | None = None
    """Column of the text in a table. Default: found by its usual names."""
    max_length: int = 128
    """Longest row in tokens, special tokens included."""

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise UserError(f"--data.max_length={self.max_length}: expected at least 8 tokens, three of them special")


@dataclass(frozen=True)
class Shape:
    """The shape of a new model. With one group of layers and narrow embeddings it is an ALBERT."""

    family: Literal["albert", "bert", "ib-bert"] = "albert"
    """albert, bert, or ib-bert: MobileBERT's teacher, whose layers compute in another width than their inputs and
    outputs."""
    embedding_size: int = 128
    """Width of the embeddings. For a BERT, another width than hidden_size factorises the embeddings."""
    hidden_size: int = 256
    bottleneck_size: int = 1024
    """Width inside the layers of an ib-bert."""
    num_hidden_layers: int = 4
    num_hidden_groups: int = 1
    """Groups of layers that share parameters; 0: no sharing."""
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    max_position_embeddings: int = 512
    """Longest input in tokens that the model can ever read."""

    def config(self, vocab_size: int, architecture: str, **settings: Any) -> Any:
        """The `BertConfig`, for a vocabulary of this size."""
        from bertjax.model.config import PREFIXES, BertConfig
        from bertjax.model.presets import mobile_config

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

    everyday: ClassVar[tuple[str, ...]] = (
        *EVERYDAY,
        "vocab_size",
        "sentences",
        "masking.rate",
        "shape.num_hidden_layers",
        "shape.hidden_size",
        "steps",
        *OF_TRAINING,
    )

    model: str | None = None
    """The model to begin with: a folder, hf:NAME, or demo. Default: a new model of the shape below."""
    shape: Shape = field(default_factory=Shape)
    vocab_size: int | None = None
    """Tokens of the vocabulary that is learnt from the text. Default: 30,000. A given model keeps its own."""
    data: Text = field(default_factory=Text)
    sentences: Sentences = "order"
    """Objective on pairs of segments. none; next: does the second follow (BERT); order: which came first (ALBERT's
    paper); order-official: as in ALBERT's code, where some second segments are random."""
    masking: Masking = field(default_factory=Masking)
    packed: bool = False
    """Pack several short sequences into one row, so that hardly anything is padding."""
    mlm_weight: float = 1.0
    """Weight of the masked-language-model loss. 0: no MLM head, the student learns from its teacher alone."""
    student: Student | None = None
    """In a config file: the shape of a smaller model, which is trained in place of the given one."""
    losses: tuple[Loss, ...] = ()
    """In a config file: what the student learns from the given model, besides masked tokens."""
    progressive: Progressive | None = None
    """In a config file: train the student layer by layer first (MobileBERT's progressive knowledge transfer)."""
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(learning_rate=1e-3))
    out: str = "runs/pretrain"
    """Folder for the model, its metrics and its checkpoints."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parts("losses", self.losses, Loss)
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
        }
        if mistakes := [message for message, found in wrong.items() if found]:
            raise UserError(mistakes[0])
