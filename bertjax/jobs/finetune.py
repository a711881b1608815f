"""Fine-tuning on labelled examples, once or as the mean of several runs."""

from typing import Any

from bertjax.jobs.data import compute_settings
from bertjax.recipes.finetune import Config, Finetune
from bertjax.recipes.stage import Context
from bertjax.storage.paths import as_path


def main(config: Config, score: bool = True) -> None:
    import dataclasses

    from bertjax.engine.loop import fit
    from bertjax.engine.record import begin, finish, keep
    from bertjax.jobs.data import open_model, read_split, score_of, tell, to_be_changed, training_batches, training_task
    from bertjax.learn.losses import TASK_LOSSES, ponder_cost
    from bertjax.learn.step import Term
    from bertjax.text.batches import inputs_of, places_of

    out = as_path(config.out)
    if begin(out, config):
        return
    if config.model_soup > 1:
        return average_of_runs(config, out, score)
    task = training_task(config.data)
    bundle, task = open_model(config.model, task, config.seed, **compute_settings(config))
    bundle = to_be_changed(bundle, config.model)
    train = read_split(config.data, config.data.train, task, bundle.tokenizer, "train")
    if config.student:
        bundle = config.student.initialise(bundle, config.seed, train.encoded)
    held_out = read_split(config.data, config.data.eval, task, bundle.tokenizer, "test")
    if score and config.compile_only is None:  # the run that a stage belongs to says it
        tell(config.data, train, held_out)
    data = training_batches(config, train.encoded, bundle.config)
    task_loss = TASK_LOSSES[task.kind]

    def objective(params, extra, state, batch, step, key):
        inputs, places = inputs_of(batch), places_of(batch)
        output = bundle.model.apply({"params": params}, *inputs, **places, rngs={"dropout": key})
        terms = {"task": Term(*task_loss(output.logits, batch))}
        if output.trace is not None:
            terms["ponder"] = Term(*ponder_cost(output.trace, batch), config.ponder)
        return terms, state

    params = fit(config, out, "fine-tuning", params=bundle.params, extra={}, objective=objective, batches=data).params
    tuned = dataclasses.replace(bundle, params=params, newly_initialized=())
    keep(tuned, out / "bundle")
    result = {task.metric: score_of(tuned, held_out)} if score else {}
    finish(out, result, train=train.encoded.fingerprint, eval=held_out.encoded.fingerprint)


def average_of_runs(config: Config, out: Any, score: bool) -> None:
    """Every run in a folder of its own, and the mean of what they learned."""
    import dataclasses

    import jax
    import numpy as np

    import bertjax
    from bertjax.engine.hosts import on_main_process
    from bertjax.engine.record import finish, keep, read_record, update_record
    from bertjax.jobs.data import open_model, read_split, score_of, tell_first, training_task
    from bertjax.storage.paths import write_text

    if score:
        tell_first(config.data, config.model, training_task(config.data))
    folders = [out / f"run{number}" for number in range(config.model_soup)]
    for seed, folder in enumerate(folders, start=config.seed * config.model_soup):
        main(dataclasses.replace(config, model_soup=1, seed=seed, out=str(folder)), score=False)
    bundles = [bertjax.load(folder / "bundle") for folder in folders]
    params = jax.tree.map(lambda *runs: np.mean(runs, axis=0, dtype=np.float32), *(one.params for one in bundles))
    keep(dataclasses.replace(bundles[0], params=params), out / "bundle")
    told = "".join((folder / "metrics.jsonl").read_text(encoding="utf-8") for folder in folders)
    on_main_process(lambda: write_text(out / "metrics.jsonl", told))
    records = [read_record(folder) or {} for folder in folders]
    epochs, peak = ([record[name] for record in records] for name in ("epochs", "training_step_bytes"))
    update_record(out, epochs=sum(epochs), training_step_bytes=max(peak))
    averaged, task = open_model(str(out / "bundle"), training_task(config.data), config.seed)
    held_out = read_split(config.data, config.data.eval, task, averaged.tokenizer, "test")
    result = {task.metric: score_of(averaged, held_out)} if score else {}
    finish(out, result, train=records[0]["data"]["train"], eval=held_out.encoded.fingerprint)


def run(recipe: Finetune, context: Context) -> None:
    """The stage: fine-tunes the context's model into its folder."""
    config = {**vars(recipe), "model": context.model, "data": context.data, "out": context.out}
    main(Config(**config), score=False)  # the report scores every model
