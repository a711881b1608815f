"""Pre-train a model on raw text: a vocabulary is learnt, words are hidden and guessed, the order of sentences is told.

    bertjax pretrain --data.train=wiki.txt --data.eval=held-out.txt --vocab_size=8000 --out=runs/pretrained
    bertjax pretrain --model=demo --sentences=none --data.train=reviews.txt --steps=2000 --out=runs/adapted
    bertjax pretrain --config=minilm --data.train=wiki --out=runs/minilm

With a student in the config file, the model given is its teacher: raw text then is enough to make a small model that
can be fine-tuned to anything, as DistilBERT, MiniLM, MobileBERT and TinyBERT's first stage do.

Documents are parted by blank lines (in tables and TFDS, each row is one). Vocabulary and pieces are stored once, in
$BERTJAX_CACHE. The finished model is OUT/bundle, which `bertjax finetune --model=OUT/bundle` takes over. At the end
stands how well it guesses the hidden words of --data.eval, beside the entropy of these words' own frequencies, which is
what a model that ignores the context can reach. The same command again continues where it was cut.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from bertjax.distill.progressive import Progressive
from bertjax.distill.student import Student
from bertjax.distill.terms import Loss
from bertjax.errors import UserError
from bertjax.paths import at
from bertjax.text.masking import Masking
from bertjax.text.pairs import Sentences

from .loop import Training
from .optimiser import Optimiser, Phases

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
            "bottleneck_size": "intra_bottleneck_size",
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
    words: float = 1.0
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
            f"--words={self.words}: expected 0 or more": self.words < 0,
            "a student learns from a model: give --model, its teacher": self.student and self.model is None,
            "losses are what a student learns: give student, its shape, in the config file": (
                (self.losses or self.progressive) and self.student is None
            ),
            "--words=0 leaves nothing to learn: give a student, and losses": not (self.words or self.losses),
            "--words=0 leaves no head: give --sentences=none, and no --data.eval": (
                not self.words and (self.sentences != "none" or self.data.eval is not None)
            ),
            "--masking.rate=0 hides no words to guess: give --words=0 as well": self.words and not self.masking.rate,
            "--packed: a teacher would take the texts of a row for one; leave it out": (
                self.packed and (self.losses or self.progressive)
            ),
        }
        if mistakes := [message for message, found in wrong.items() if found]:
            raise UserError(mistakes[0])


def main(config: Config) -> None:
    import dataclasses

    from bertjax.measure.peak import device_peak
    from bertjax.text.corpus import build_corpus
    from bertjax.text.pretraining import Rows, pretraining_batches

    from .log import note
    from .loop import fit
    from .processes import share
    from .run import begin, finish, keep, update_record

    out, text = at(config.out), config.data
    if begin(out, config):
        return
    given = open_bundle(config)
    bundle, teacher = given, None
    if config.student:
        bundle, teacher = config.student.initialise(given, config.seed), given
    check_positions(text.max_length, given, bundle)

    def rows_of(source: str, split: str, seed: int) -> Rows:
        corpus = build_corpus(source, bundle.tokenizer, text.max_length - 3, text.text, split)
        note(f"{source}: {corpus.lengths.sum()} pieces in {len(corpus)} chunks, {corpus.folder}")
        return Rows(corpus, bundle.tokenizer, text.max_length, config.sentences, config.masking, seed)

    train = rows_of(text.train, "train", config.seed)
    held_out = rows_of(text.eval, "test", 0) if text.eval else None  # the same masks, whatever --seed is
    data = pretraining_batches(train, config.batch_size, packed=config.packed, **share())
    peak = device_peak(config.dtype)
    update_record(out, peak_flops=peak.flops, peak_source=peak.source)

    steps = config.total_steps(data.steps_per_epoch)
    objective, extra, phases = learning(config, bundle.model, teacher.model if teacher else None, steps)
    params = fit(
        config,
        out,
        "pre-training",
        params=bundle.params,
        extra=extra,
        objective=objective,
        batches=data,
        constants={"teacher": teacher.params} if teacher and (config.losses or config.progressive) else {},
        phases=phases,
        peak=peak.flops,
    ).params
    trained = dataclasses.replace(bundle, params=params, fresh=())
    keep(trained, out / "bundle")
    fingerprints = {"train": train.corpus.fingerprint, "tokenizer": trained.tokenizer.fingerprint}
    if held_out is not None:
        fingerprints["eval"] = held_out.corpus.fingerprint
    finish(
        out, evaluate(trained, held_out, config.batch_size // config.micro_batches) if held_out else {}, **fingerprints
    )


def open_bundle(config: Config) -> Any:
    """The model to begin with, with the heads that the questions need; from nothing, with a vocabulary of its own."""
    from bertjax.bundle import Bundle, init_params, load, stored_config
    from bertjax.model.config import PREFIXES
    from bertjax.text.wordpiece import wordpiece

    head = ("ForMaskedLM" if config.words else "Model") if config.sentences == "none" else "ForPreTraining"
    if config.model is None:
        tokenizer = wordpiece(config.data.train, config.vocab_size or VOCABULARY, config.data.text)
        model = config.shape.config(tokenizer.vocab_size, head, **config.compute())
        bundle = Bundle(model, init_params(model, config.seed), tokenizer)
    else:
        stored = stored_config(config.model)
        if config.vocab_size not in (None, stored.vocab_size):
            raise UserError(
                f"--vocab_size={config.vocab_size}: {config.model} has {stored.vocab_size} pieces of its own; "
                "leave --vocab_size out, or begin from nothing (--model=none)."
            )
        for name, there in config.shape.differences(stored).items():
            raise UserError(
                f"--shape.{name}={getattr(config.shape, name)}: {config.model} has {there}, and stays as it is; leave "
                f"--shape.{name} out, or begin from nothing (--model=none)."
            )
        if stored.quantization and stored.quantization.weights:
            raise UserError(
                f"{config.model} holds integers, which cannot be trained; begin with the one in floating point."
            )
        if stored.type_vocab_size < 2 and config.sentences != "none":
            raise UserError(
                f"--sentences={config.sentences}: {config.model} is a {stored.model_type}, which has no token types "
                "and no head for pairs; give --sentences=none."
            )
        architecture = PREFIXES[stored.model_type] + head
        bundle = load(config.model, architecture=architecture, seed=config.seed, **config.compute())
        if bundle.tokenizer is None:
            raise UserError(f"{config.model} has no tokenizer.json or vocab.txt, so no text can be read with it.")
        if bundle.fresh and any(type(loss).__name__ == "SoftWords" for loss in config.losses):
            raise UserError(
                f"{config.model} has no trained head that guesses words, for a student to learn from. Train it first:\n"
                f"  bertjax pretrain --model={config.model} --sentences=none --data.train=TEXT --out=runs/words"
            )
    return bundle


def check_positions(longest: int, *bundles: Any) -> None:
    """Says if a row can be longer than one of the models can read."""
    positions = min(bundle.config.max_position_embeddings for bundle in bundles)
    if longest > positions:
        raise UserError(f"--data.max_length={longest}: the model has {positions} positions; give so many, or fewer.")


def learning(config: Config, model: Any, teacher: Any, steps: int) -> tuple[Callable, Any, Phases | None]:
    """The objective, the parameters that are trained with the model and do not ship, and the phases in which it learns
    layer by layer. A teacher (the module) finds its parameters beside the batch."""
    import jax.numpy as jnp

    from .lessons import layer_by_layer, lessons

    everywhere = any(getattr(loss, "everywhere", False) for loss in config.losses)
    taught = lessons(config.losses, model.config, [teacher.config], config.seed) if teacher else None
    phases, by_layer = layer_by_layer(config.progressive, model, teacher, steps)

    def learn(params, extra, batch, key):
        asked = {name: array for name, array in batch.items() if not (everywhere and name == "masked_positions")}
        output = apply(model, params, asked, rngs={"dropout": key})
        guesses = output
        if everywhere:
            hidden = jnp.take_along_axis(output.logits, batch["masked_positions"][..., None], axis=1)
            guesses = output._replace(logits=hidden)
        terms = terms_of(guesses, batch, config.words)
        if taught and taught.each:
            said = apply(teacher, batch["teacher"], asked)
            terms |= taught.terms(extra, output, [said], one_text_a_row(batch))
        return terms

    def objective(params, extra, state, batch, step, key):
        later = lambda: learn(params, extra, batch, key)  # noqa: E731
        return by_layer(params, batch.get("teacher"), one_text_a_row(batch), step, key, later), state

    return objective, taught.extra if taught else {}, phases


def one_text_a_row(batch: Any) -> dict[str, Any]:
    """The batch as losses of a teacher know it, with one weight a row."""
    return {**batch, "weights": batch["weights"][:, 0]}


def apply(model: Any, params: Any, batch: Any, **more: Any) -> Any:
    """The model's output for a batch of `bertjax.text.pretraining`, packed or not."""
    from bertjax.text.batches import inputs_of, places_of

    return model.apply({"params": params}, *inputs_of(batch), **places_of(batch), **more)


def terms_of(output: Any, batch: Any, words: float = 1.0) -> dict[str, Any]:
    """Cross-entropy of the hidden pieces, and of the sentences where they are asked about."""
    from bertjax.losses import classification

    from .step import Term

    terms = {"words": Term(*classification(output.logits, answers(batch, "masked")), words)} if words else {}
    if output.sentence_logits is not None:
        terms["sentences"] = Term(*classification(output.sentence_logits, answers(batch, "sentence")))
    return terms


def answers(batch: Any, what: str) -> dict[str, Any]:
    """Labels and weights of one question, under the names that losses know."""
    return {"labels": batch[f"{what}_labels"], "weights": batch[f"{what}_weights"]}


def evaluate(bundle: Any, rows: Any, batch_size: int) -> dict[str, float]:
    """Loss in nats and accuracy of the hidden pieces, the entropy of their frequencies, accuracy on the sentences."""
    import jax
    import numpy as np

    from bertjax.losses import classification
    from bertjax.text.pretraining import held_out_batches

    @jax.jit
    def measure(params, batch):
        output, sums = apply(bundle.model, params, batch), {}
        sums["loss"], sums["guesses"] = classification(output.logits, answers(batch, "masked"))
        for what, logits in (("masked", output.logits), ("sentence", output.sentence_logits)):
            if logits is not None:
                right = (logits.argmax(-1) == batch[f"{what}_labels"]) * batch[f"{what}_weights"]
                sums[what], sums[f"{what}_asked"] = right.sum(), batch[f"{what}_weights"].sum()
        return sums

    total: dict[str, float] = {}
    frequencies = np.zeros(bundle.config.vocab_size)
    for batch in held_out_batches(rows, batch_size):
        for name, value in jax.device_get(measure(bundle.device_params, batch)).items():
            total[name] = total.get(name, 0.0) + float(value)
        np.add.at(frequencies, batch["masked_labels"], batch["masked_weights"])
    shares = frequencies[frequencies > 0] / frequencies.sum()
    result = {
        "masked_loss": total["loss"] / total["guesses"],
        "unigram_entropy": float(-(shares * np.log(shares)).sum()),
        "masked_accuracy": total["masked"] / total["masked_asked"],
    }
    if total.get("sentence_asked"):
        result["sentence_accuracy"] = total["sentence"] / total["sentence_asked"]
    return result


if __name__ == "__main__":
    from .settings import run

    run("pretrain")
