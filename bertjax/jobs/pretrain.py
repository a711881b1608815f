"""Pre-training on raw text, with a teacher or without."""

from collections.abc import Callable
from typing import Any

from bertjax.errors import UserError
from bertjax.jobs.data import compute_settings
from bertjax.learn.phases import Phases
from bertjax.recipes.pretrain import VOCABULARY, Config


def open_bundle(config: Config) -> Any:
    """The model to begin with, with the heads that the questions need; from nothing, with a vocabulary of its own."""
    from bertjax.bundle import Bundle, init_params, load, stored_config
    from bertjax.model.config import PREFIXES
    from bertjax.text.wordpiece import wordpiece

    head = ("ForMaskedLM" if config.mlm_weight else "Model") if config.sentences == "none" else "ForPreTraining"
    if config.model is None:
        tokenizer = wordpiece(config.data.train, config.vocab_size or VOCABULARY, config.data.text)
        model = config.shape.config(tokenizer.vocab_size, head, **compute_settings(config))
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
        bundle = load(config.model, architecture=architecture, seed=config.seed, **compute_settings(config))
        if bundle.tokenizer is None:
            raise UserError(f"{config.model} has no tokenizer.json or vocab.txt, so no text can be read with it.")
        if bundle.newly_initialized and any(type(loss).__name__ == "SoftWords" for loss in config.losses):
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

    from bertjax.distill.progressive import layer_by_layer
    from bertjax.learn.objective import bind_losses

    everywhere = any(getattr(loss, "everywhere", False) for loss in config.losses)
    taught = bind_losses(config.losses, model.config, [teacher.config], config.seed) if teacher else None
    phases, by_layer = layer_by_layer(config.progressive, model, teacher, steps)

    def learn(params, extra, batch, key):
        asked = {name: array for name, array in batch.items() if not (everywhere and name == "masked_positions")}
        output = apply(model, params, asked, rngs={"dropout": key})
        guesses = output
        if everywhere:
            hidden = jnp.take_along_axis(output.logits, batch["masked_positions"][..., None], axis=1)
            guesses = output._replace(logits=hidden)
        terms = terms_of(guesses, batch, config.mlm_weight)
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
    from bertjax.learn.losses import classification
    from bertjax.learn.step import Term

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

    from bertjax.learn.losses import classification
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
