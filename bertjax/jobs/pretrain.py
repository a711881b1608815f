"""Pre-training on raw text by masked language modelling, sentence objectives and distillation.

A teacher is optional. It runs in every step, because masks are drawn anew in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from bertjax.errors import UserError
from bertjax.jobs.data import compute_settings, tokenizer_of
from bertjax.jobs.training import Prepared, check_packing
from bertjax.recipes.pretrain import VOCABULARY, Config

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.learn.assemble import Learning
    from bertjax.learn.loss import Loss
    from bertjax.learn.losses import Batch
    from bertjax.text.pretraining import PretrainingRows


def open_bundle(config: Config) -> Bundle:
    """The initial model, with the heads that the objectives need; a model trained from scratch gets a new
    vocabulary."""
    from bertjax.bundle import ARCHITECTURES, Bundle, init_params, load, stored_config
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
        pairs = stored.type_vocab_size > 1 and f"{PREFIXES[stored.model_type]}ForPreTraining" in ARCHITECTURES
        if not pairs and config.sentences != "none":
            raise UserError(
                f"--sentences={config.sentences}: {config.model} is a {stored.model_type}, which has no token types "
                "for two texts, or no head for pairs; give --sentences=none."
            )
        architecture = PREFIXES[stored.model_type] + head
        bundle = load(config.model, architecture=architecture, seed=config.seed, **compute_settings(config))
        if bundle.tokenizer is None:
            raise UserError(f"{config.model} has no tokenizer.json or vocab.txt, so no text can be read with it.")
        if bundle.newly_initialized and any(loss.reads_mlm_head for loss in config.losses):
            raise UserError(
                f"{config.model} has no trained MLM head, which a student could learn from. Train it first:\n"
                f"  bertjax pretrain --model={config.model} --sentences=none --data.train=TEXT --out=runs/words"
            )
    return bundle


def check_positions(longest: int, *bundles: Bundle) -> None:
    """Refuses rows that are longer than the positions of one of the models."""
    positions = min(bundle.config.max_tokens for bundle in bundles)
    if longest > positions:
        raise UserError(f"--data.max_length={longest}: the model has {positions} positions; give at most {positions}.")


def prepare(config: Config) -> Prepared:
    """The model, its text, and its teacher if it is a student."""
    from bertjax.engine.hosts import process_shard
    from bertjax.engine.log import note
    from bertjax.machine.peak_flops import device_peak
    from bertjax.text.corpus import build_corpus
    from bertjax.text.pretraining import PretrainingRows, pretraining_batches

    text, given = config.data, open_bundle(config)
    student = config.student.initialise(given, config.seed) if config.student else given
    tokenizer = tokenizer_of(student)
    check_positions(text.max_length, given, student)

    def rows_of(source: str, split: str, seed: int) -> PretrainingRows:
        corpus = build_corpus(source, tokenizer, text.max_length - 3, text.text, split)
        note(f"{source}: {corpus.lengths.sum()} tokens in {len(corpus)} chunks, {corpus.folder}")
        return PretrainingRows(corpus, tokenizer, text.max_length, config.sentences, config.masking, seed)

    train = rows_of(text.train, "train", config.seed)
    held_out = rows_of(text.eval, "test", 0) if text.eval else None  # the same masks, whatever --seed is
    batches = pretraining_batches(train, config.batch_size, packed=config.packed, **process_shard())
    teacher = given if config.student and (config.losses or config.progressive) else None
    peak, rows = device_peak(config.dtype), config.batch_size // config.micro_batches
    sample = lambda: islice(pretraining_batches(train, 32), 16)  # noqa: E731
    fingerprints = {"train": train.corpus.fingerprint, "tokenizer": tokenizer.fingerprint}
    return Prepared(
        "pre-training",
        student,
        learning(config, student, teacher, config.total_steps(batches.steps_per_epoch), sample),
        batches,
        lambda trained: evaluate(trained, held_out, rows) if held_out else {},
        fingerprints | ({"eval": held_out.corpus.fingerprint} if held_out else {}),
        record={"peak_flops": peak.flops, "peak_source": peak.source},
        peak=peak.flops,
    )


def learning(
    config: Config,
    student: Bundle,
    teacher: Bundle | None,
    steps: int,
    sample: Callable[[], Iterable[Batch]] = lambda: (),
) -> Learning:
    """What the model learns from raw text, and from its teacher; losses and transforms begin from the sample."""
    from bertjax.distill.progressive import layer_by_layer
    from bertjax.learn.assemble import assemble, loss_names
    from bertjax.learn.objective import Teacher
    from bertjax.learn.task_losses import MaskedTokens, SentencePairs

    losses: dict[str, Loss] = {"words": MaskedTokens(config.mlm_weight)} if config.mlm_weight else {}
    if config.sentences != "none":
        losses["sentences"] = SentencePairs()
    losses |= loss_names(config.losses)
    check_packing(config.packed, config.progressive, losses, student.config, [teacher.config] if teacher else [])
    progressive = config.progressive if teacher else None
    return assemble(
        student,
        losses,
        steps=steps,
        seed=config.seed,
        teachers=(Teacher(teacher),) if teacher else (),
        transforms=config.all_transforms,
        penalties=config.penalties,
        sample=sample,
        curriculum=layer_by_layer(progressive, student.config, teacher.model, steps)
        if progressive and teacher
        else None,
    )


def evaluate(bundle: Bundle, rows: PretrainingRows, batch_size: int) -> dict[str, float]:
    """Loss in nats and accuracy on masked tokens, the entropy of their unigram distribution, and accuracy on sentence
    pairs."""
    import jax
    import numpy as np

    from bertjax.learn.losses import classification
    from bertjax.learn.task_losses import targets
    from bertjax.text.batches import inputs_of, places_of
    from bertjax.text.pretraining import held_out_batches

    @jax.jit
    def measure(params, batch):
        output: Any = bundle.model.apply({"params": params}, *inputs_of(batch), **places_of(batch))
        sums = {}
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
