"""Pre-training on raw text by masked language modelling, sentence objectives and distillation.

A teacher is optional. It runs in every step, because masks are drawn anew in every epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bertjax.distill.terms import MLMSoftTargets
from bertjax.errors import UserError
from bertjax.jobs.data import compute_settings
from bertjax.learn.phases import Phases
from bertjax.recipes.pretrain import VOCABULARY, Config

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.learn.step import Batch, Objective, Term
    from bertjax.model import BertModel
    from bertjax.params import Tree
    from bertjax.text.pretraining import PretrainingRows


def open_bundle(config: Config) -> Bundle:
    """The initial model, with the heads that the objectives need; a model trained from scratch gets a new
    vocabulary."""
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
                f"--vocab_size={config.vocab_size}: {config.model} has {stored.vocab_size} tokens of its own; "
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
        if bundle.newly_initialized and any(isinstance(loss, MLMSoftTargets) for loss in config.losses):
            raise UserError(
                f"{config.model} has no trained MLM head, which a student could learn from. Train it first:\n"
                f"  bertjax pretrain --model={config.model} --sentences=none --data.train=TEXT --out=runs/words"
            )
    return bundle


def check_positions(longest: int, *bundles: Bundle) -> None:
    """Refuses rows that are longer than the positions of one of the models."""
    positions = min(bundle.config.max_position_embeddings for bundle in bundles)
    if longest > positions:
        raise UserError(f"--data.max_length={longest}: the model has {positions} positions; give at most {positions}.")


def learning(
    config: Config, model: BertModel, teacher: BertModel | None, steps: int
) -> tuple[Objective, dict[str, Tree], Phases | None]:
    """The objective, the parameters that are trained with the model but do not ship, and the phases of layer-by-layer
    training. The teacher's parameters are part of the batch."""
    import jax.numpy as jnp

    from bertjax.distill.progressive import layer_by_layer
    from bertjax.learn.objective import bind_losses

    everywhere = any(getattr(loss, "everywhere", False) for loss in config.losses)
    distillation = bind_losses(config.losses, model.config, [teacher.config], config.seed) if teacher else None
    phases, by_layer = layer_by_layer(config.progressive, model, teacher, steps)

    def learn(params, extra, batch, key):
        inputs = {name: array for name, array in batch.items() if not (everywhere and name == "masked_positions")}
        student_out = apply(model, params, inputs, rngs={"dropout": key})
        masked_out = student_out
        if everywhere:
            masked = jnp.take_along_axis(student_out.logits, batch["masked_positions"][..., None], axis=1)
            masked_out = student_out._replace(logits=masked)
        terms = terms_of(masked_out, batch, config.mlm_weight)
        if teacher and distillation and distillation.each:
            teacher_out = apply(teacher, batch["teacher"], inputs)
            terms |= distillation.terms(extra, student_out, [teacher_out], one_weight_a_row(batch))
        return terms

    def objective(params, extra, state, batch, step, key):
        after_phases = lambda: learn(params, extra, batch, key)  # noqa: E731
        return by_layer(params, batch.get("teacher"), one_weight_a_row(batch), step, key, after_phases), state

    return objective, distillation.extra if distillation else {}, phases


def one_weight_a_row(batch: Batch) -> dict[str, Any]:
    """The batch in the form that distillation losses read, with one weight per row."""
    return {**batch, "weights": batch["weights"][:, 0]}


def apply(model: BertModel, params: Tree, batch: Batch, **more: Any) -> Any:
    """The model's `ModelOutput` for a batch of `bertjax.text.pretraining`, packed or not."""
    from bertjax.text.batches import inputs_of, places_of

    return model.apply({"params": params}, *inputs_of(batch), **places_of(batch), **more)


def terms_of(output: Any, batch: Batch, mlm_weight: float = 1.0) -> dict[str, Term]:
    """Cross-entropy of the masked tokens, and of the sentence pairs if the model has a head for them."""
    from bertjax.learn.losses import classification
    from bertjax.learn.step import Term

    terms = {}
    if mlm_weight:
        terms["words"] = Term(*classification(output.logits, targets(batch, "masked")), mlm_weight)
    if output.sentence_logits is not None:
        terms["sentences"] = Term(*classification(output.sentence_logits, targets(batch, "sentence")))
    return terms


def targets(batch: Batch, what: str) -> dict[str, Any]:
    """Labels and weights of one objective, "masked" or "sentence", under the names that losses read."""
    return {"labels": batch[f"{what}_labels"], "weights": batch[f"{what}_weights"]}


def evaluate(bundle: Bundle, rows: PretrainingRows, batch_size: int) -> dict[str, float]:
    """Loss in nats and accuracy on masked tokens, the entropy of their unigram distribution, and accuracy on sentence
    pairs."""
    import jax
    import numpy as np

    from bertjax.learn.losses import classification
    from bertjax.text.pretraining import held_out_batches

    @jax.jit
    def measure(params, batch):
        output, sums = apply(bundle.model, params, batch), {}
        sums["loss"], sums["guesses"] = classification(output.logits, targets(batch, "masked"))
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
