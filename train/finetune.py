"""Fine-tune a BERT on a task: text with labels in, a model folder out.

    bertjax finetune --model=demo --data.train=demo --data.eval=demo --epochs=3 --out=runs/finetuned
    bertjax finetune --model=hf:bert-base-uncased --data.train=train.tsv --data.eval=dev.tsv --out=runs/mine

The finished model is OUT/bundle, its score stands in OUT/bundle/README.md, and OUT/metrics.jsonl tells how it went.
The same command again continues where it was cut.
"""

from dataclasses import dataclass, field
from typing import Any

from bertjax.distill.student import Student
from bertjax.errors import UserError
from bertjax.paths import at

from .common import Data
from .loop import Training


@dataclass(frozen=True)
class Finetune(Training):
    """Fine-tuning as a stage of `compress`: the recipe, without model, data and folder."""

    name: str = "teacher"
    """What the result is called in the report."""
    student: Student | None = None
    """In a config file: cut the model down to this shape before it is trained."""
    packed: bool = False
    """Several short examples in one row of data.max_length pieces, so that next to nothing is padding. batch_size
    counts rows: divide it by the examples that share one, which a run says at its start, or a step learns from so many
    times more. Two runs compare by the examples they saw and by their scores: a step's loss is its own batch's."""
    ponder: float = 0.01
    """Price of a step, for a model whose positions halt by themselves."""
    runs: int = 1
    """Train so often, with the seeds from seed * runs on, and take the mean of the weights (Wortsman et al. 2022): as
    small and fast as one run, and it need not be known beforehand which of them is good."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runs < 1:
            raise UserError(f"--runs={self.runs}: expected 1, or more whose weights are averaged")

    def run(self, context: Any) -> None:
        """The stage: fine-tunes the context's model into its folder."""
        config = {**vars(self), "model": context.model, "data": context.data, "out": context.out}
        main(Config(**config), score=False)  # the report scores every model


@dataclass(frozen=True)
class Config(Finetune):
    """Fine-tuning."""

    model: str = "demo"
    """The model to begin with: a folder, hf:NAME, or demo."""
    data: Data = field(default_factory=Data)
    out: str = "runs/finetune"
    """Folder for the model, its metrics and its checkpoints."""


def main(config: Config, score: bool = True) -> None:
    import dataclasses

    from bertjax.losses import TASK_LOSSES, ponder_cost
    from bertjax.text.batches import inputs_of, places_of

    from .data import open_model, read_split, score_of, tell, to_be_changed, training_batches, training_task
    from .loop import fit
    from .run import begin, finish, keep
    from .step import Term

    out = at(config.out)
    if begin(out, config):
        return
    if config.runs > 1:
        return average_of_runs(config, out, score)
    task = training_task(config.data)
    bundle, task = open_model(config.model, task, config.seed, **config.compute())
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
    tuned = dataclasses.replace(bundle, params=params, fresh=())
    keep(tuned, out / "bundle")
    result = {task.metric: score_of(tuned, held_out)} if score else {}
    finish(out, result, train=train.encoded.fingerprint, eval=held_out.encoded.fingerprint)


def average_of_runs(config: Config, out: Any, score: bool) -> None:
    """Every run in a folder of its own, and the mean of what they learned."""
    import dataclasses

    import jax
    import numpy as np

    import bertjax
    from bertjax.paths import write_text

    from .data import open_model, read_split, score_of, tell_first, training_task
    from .processes import alone
    from .run import finish, keep, read_record, update_record

    if score:
        tell_first(config.data, config.model, training_task(config.data))
    folders = [out / f"run{number}" for number in range(config.runs)]
    for seed, folder in enumerate(folders, start=config.seed * config.runs):
        main(dataclasses.replace(config, runs=1, seed=seed, out=str(folder)), score=False)
    bundles = [bertjax.load(folder / "bundle") for folder in folders]
    params = jax.tree.map(lambda *runs: np.mean(runs, axis=0, dtype=np.float32), *(one.params for one in bundles))
    keep(dataclasses.replace(bundles[0], params=params), out / "bundle")
    told = "".join((folder / "metrics.jsonl").read_text(encoding="utf-8") for folder in folders)
    alone(lambda: write_text(out / "metrics.jsonl", told))
    records = [read_record(folder) or {} for folder in folders]
    epochs, peak = ([record[name] for record in records] for name in ("epochs", "training_step_bytes"))
    update_record(out, epochs=sum(epochs), training_step_bytes=max(peak))
    averaged, task = open_model(str(out / "bundle"), training_task(config.data), config.seed)
    held_out = read_split(config.data, config.data.eval, task, averaged.tokenizer, "test")
    result = {task.metric: score_of(averaged, held_out)} if score else {}
    finish(out, result, train=records[0]["data"]["train"], eval=held_out.encoded.fingerprint)


if __name__ == "__main__":
    from .settings import run

    run("finetune")
