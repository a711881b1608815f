"""Fine-tuning on labelled examples, with one seed or as a model soup over several."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bertjax.distill.terms import HardLabels
from bertjax.jobs.data import Text, compute_settings, open_model, tokenizer_of, without_threshold
from bertjax.jobs.training import Prepared, result_of, supervised, task_losses, train_unscored
from bertjax.recipes.finetune import Config, Finetune
from bertjax.recipes.stage import Context, StageResult
from bertjax.storage.paths import as_path, write_text

if TYPE_CHECKING:
    from bertjax.bundle import Bundle


def prepare(config: Config, text: Text) -> Prepared:
    """The model with a head for the task, and the task's loss."""
    bundle, task = open_model(config.model, text.task(), config.seed, **compute_settings(config))
    bundle = without_threshold(bundle, config.model)
    train = text.training(task, tokenizer_of(bundle))
    if config.student:
        bundle = config.student.initialise(bundle, config.seed, train.encoded)
    held_out = text.held_out(task, tokenizer_of(bundle))
    text.describe(train, held_out)
    losses = task_losses({"task": HardLabels(class_weights=config.class_weights)}, bundle.config, config.ponder)
    return supervised(config, text.data, "fine-tuning", bundle, losses, (train, held_out), packed=config.packed)


def train_soup(config: Config, text: Text) -> Bundle:
    """Trains with several seeds, each in a folder of its own, and saves the mean of the weights as `config.out/bundle`
    (Wortsman et al. 2022)."""
    import jax
    import numpy as np

    import bertjax
    from bertjax.engine.hosts import on_main_process
    from bertjax.engine.record import keep, read_record, update_record

    text = text._replace(verbose=False)
    out = as_path(config.out)
    folders = [out / f"run{number}" for number in range(config.model_soup)]
    for seed, folder in enumerate(folders, start=config.seed * config.model_soup):
        train_unscored(dataclasses.replace(config, model_soup=1, seed=seed, out=str(folder)), text, prepare)
    bundles = [bertjax.load(folder / "bundle") for folder in folders]
    params = jax.tree.map(lambda *runs: np.mean(runs, axis=0, dtype=np.float32), *(one.params for one in bundles))
    soup = dataclasses.replace(bundles[0], params=params)
    keep(soup, out / "bundle")
    metrics = "".join((folder / "metrics.jsonl").read_text(encoding="utf-8") for folder in folders)
    on_main_process(lambda: write_text(out / "metrics.jsonl", metrics))
    records = [read_record(folder) or {} for folder in folders]
    epochs, peak = ([record[name] for record in records] for name in ("epochs", "training_step_bytes"))
    update_record(out, epochs=sum(epochs), training_step_bytes=max(peak))
    return soup


def run(recipe: Finetune, context: Context) -> StageResult:
    """The stage: fine-tunes the context's model into its folder."""
    from bertjax.engine.record import begin, finish

    given = {"model": context.model, "data": context.data, "out": context.out}
    config, text = Config(**{**vars(recipe), **given}), Text.of_context(context)
    if config.model_soup == 1:
        train_unscored(config, text, prepare)
    elif not begin(as_path(config.out), config, context.reader):
        train_soup(config, text)
        finish(as_path(config.out), {})
    return result_of(context.out, context.data)
