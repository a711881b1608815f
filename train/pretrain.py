"""Pre-train a model on raw text: learn a vocabulary, predict masked tokens, tell the order of sentences.

    bertjax pretrain --data.train=wiki.txt --data.eval=held-out.txt --vocab_size=8000 --out=runs/pretrained
    bertjax pretrain --model=demo --sentences=none --data.train=reviews.txt --steps=2000 --out=runs/adapted
    bertjax pretrain --config=minilm --data.train=wiki --out=runs/minilm

With a student in the config file, the given model is its teacher: raw text is then enough to make a small model that
can be fine-tuned to any task, as for DistilBERT, MiniLM, MobileBERT and TinyBERT's first stage.

Documents are separated by blank lines (in tables and TFDS, each row is one). Vocabulary and tokens are stored once, in
$BERTJAX_CACHE. The finished model is OUT/bundle; `bertjax finetune --model=OUT/bundle` begins with it. At the end the
loss on the masked tokens of --data.eval is printed, with the entropy of their unigram frequencies, which a model that
ignores the context can reach. The same command again continues an interrupted run.
"""

import dataclasses

from bertjax.engine.command_line import run
from bertjax.engine.hosts import process_shard
from bertjax.engine.log import note
from bertjax.engine.record import begin, finish, keep, update_record
from bertjax.jobs.data import tokenizer_of
from bertjax.jobs.pretrain import check_positions, evaluate, learning, open_bundle
from bertjax.recipes.pretrain import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    from bertjax.engine.loop import fit
    from bertjax.machine.peak_flops import device_peak
    from bertjax.text.corpus import build_corpus
    from bertjax.text.pretraining import PretrainingRows, pretraining_batches

    out, text = as_path(config.out), config.data
    if begin(out, config):
        return
    initial = open_bundle(config)
    bundle, teacher = initial, None
    if config.student:
        bundle, teacher = config.student.initialise(initial, config.seed), initial
    check_positions(text.max_length, initial, bundle)

    def rows_of(source: str, split: str, seed: int) -> PretrainingRows:
        corpus = build_corpus(source, tokenizer_of(bundle), text.max_length - 3, text.text, split)
        note(f"{source}: {corpus.lengths.sum()} tokens in {len(corpus)} chunks, {corpus.folder}")
        return PretrainingRows(corpus, tokenizer_of(bundle), text.max_length, config.sentences, config.masking, seed)

    train = rows_of(text.train, "train", config.seed)
    held_out = rows_of(text.eval, "test", 0) if text.eval else None  # the same masks, whatever --seed is
    data = pretraining_batches(train, config.batch_size, packed=config.packed, **process_shard())
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
    trained = dataclasses.replace(bundle, params=params, newly_initialized=())
    keep(trained, out / "bundle")
    fingerprints = {"train": train.corpus.fingerprint, "tokenizer": tokenizer_of(trained).fingerprint}
    if held_out is not None:
        fingerprints["eval"] = held_out.corpus.fingerprint
    finish(
        out, evaluate(trained, held_out, config.batch_size // config.micro_batches) if held_out else {}, **fingerprints
    )


if __name__ == "__main__":
    run(main, __doc__)
