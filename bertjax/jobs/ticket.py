"""Lottery tickets: iterations of training, pruning and rewinding, and the training of the ticket at the end.

Every training is a fine-tuning in a folder of its own, as `bertjax finetune --model=START --ticket=FILE` runs it, so it
is recorded, resumed and left alone when it is finished like any other. Between two of them stand two files: the masks,
and the model that the next one begins with.

    OUT/iteration-1/bundle              the trained model
    OUT/iteration-1/ticket.safetensors  the masks after its smallest weights are pruned
    OUT/iteration-1/start               the weights that the next iteration begins with
    OUT/start                           the weights that the ticket belongs to, unless they are those of --model
    OUT/ticket.safetensors, OUT/bundle  the ticket, and the model that is trained from it
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjax.jobs import finetune
from bertjax.jobs.data import Text, open_model, tokenizer_of
from bertjax.jobs.training import Prepared, result_of, train, train_unscored
from bertjax.prune.ticket import (
    FILE,
    Snapshot,
    fitting_masks,
    random_masks,
    read_ticket,
    rewound,
    shuffled,
    unpruned,
    without_smallest,
    write_ticket,
)
from bertjax.recipes.finetune import Config as Finetuning
from bertjax.recipes.stage import Context, StageResult
from bertjax.recipes.ticket import Config, LotteryTicket
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.params import Tree


def train_ticket(config: Config, text: Text) -> tuple[Bundle, Prepared]:
    """Makes the ticket and trains it; saves the model as `config.out/bundle`. Returns it with its prepared run."""
    from bertjax.engine.log import note

    initial, task = open_model(config.model, text.task(), config.seed)
    if text.verbose:
        splits = text.training(task, tokenizer_of(initial)), text.held_out(task, tokenizer_of(initial))
        text.describe(*splits)
        text = text._replace(verbose=False)
    start = iterate(config, text, initial) if config.method == "iterative" else control(config, initial)
    file = as_path(config.out) / FILE
    note(f"{file}: {read_ticket(file).sparsity:.1%} zeros, which save no time; it belongs to {start}")
    final = finetuning(config, str(config.out), start, file)
    prepared = finetune.prepare(final, text)
    return train(final, config.out, prepared), prepared


def iterate(config: Config, text: Text, initial: Bundle) -> str:
    """Finds the ticket by iterations, from the model as given. Returns the model that it belongs to."""
    from bertjax.engine.hosts import broadcast_from_main, on_main_process
    from bertjax.storage.paths import remove

    out, start, before = as_path(config.out), config.model, None
    for number in range(1, config.iterations + 1):
        folder, last = out / f"iteration-{number}", number == config.iterations
        train_iteration(config, number, start, before, text)
        file = (out if last else folder) / FILE
        if not broadcast_from_main(file.is_file):
            on_main_process(partial(prune_iteration, config, number, initial, before, file))
        on_main_process(partial(remove, folder / "checkpoints"))  # of a training that is finished
        start, before = str(folder / ("bundle" if config.rewind is None else "start")), file
    return belongs_to(config, config.iterations)


def belongs_to(config: Config, number: int) -> str:
    """The model that the ticket after an iteration belongs to."""
    out = as_path(config.out)
    if config.rewind is None:
        return str(out / f"iteration-{number}" / "bundle")
    return str(out / "start") if config.rewind else config.model


def train_iteration(config: Config, number: int, start: str, ticket: Path | None, text: Text) -> None:
    """The training of an iteration, in its folder. The first one saves what later ones rewind to."""
    out = as_path(config.out)
    recipe, prepare = finetuning(config, str(out / f"iteration-{number}"), start, ticket), finetune.prepare
    if config.decay_over == "all":
        optimiser = dataclasses.replace(config.optimiser, min_lr_ratio=1 - 1 / config.iterations)
        recipe = dataclasses.replace(recipe, optimiser=optimiser)
    if number == 1 and config.rewind:
        recipe = dataclasses.replace(recipe, transforms=(Snapshot(config.rewind), *config.transforms))
        prepare = partial(prepare_first, start=out / "start")
    train_unscored(recipe, text, prepare)


def finetuning(config: Config, out: str, model: str, ticket: Path | None) -> Finetuning:
    """One training: a fine-tuning with the settings of the config."""
    names = {one.name for one in dataclasses.fields(config)} & {one.name for one in dataclasses.fields(Finetuning)}
    given = {"model": model, "out": out, "ticket": ticket and str(ticket)}
    return Finetuning(**{name: getattr(config, name) for name in names} | given)


def prepare_first(config: Finetuning, text: Text, start: Path) -> Prepared:
    """A fine-tuning that also saves the weights of its first transform, a `Snapshot`, as the model `start`."""
    from bertjax.engine.record import keep

    prepared = finetune.prepare(config, text)
    learning = prepared.learning

    def finish(params: Tree, extra: Tree, state: Tree) -> Any:
        weights = state["transforms"]["0_Snapshot"]
        keep(dataclasses.replace(prepared.student, params=weights, newly_initialized=()), start)
        assert learning.finish is not None
        return learning.finish(params, extra, state)

    return dataclasses.replace(prepared, learning=dataclasses.replace(learning, finish=finish))


def prune_iteration(config: Config, number: int, initial: Bundle, before: Path | None, file: Path) -> None:
    """Writes the masks after an iteration and, if another one follows and rewinds, the model that it begins with."""
    import bertjax

    folder = as_path(config.out) / f"iteration-{number}"
    trained = bertjax.load(folder / "bundle")
    masks = read_ticket(before).masks if before else unpruned(initial.params, initial.newly_initialized)
    masks = without_smallest(masks, trained.params, config.sparsity * number / config.iterations)
    original = bertjax.load(belongs_to(config, number)) if config.rewind != 0 else initial
    if config.rewind is not None and number < config.iterations:
        params = rewound(original.params, trained.params if config.head == "kept" else None)
        bertjax.save(dataclasses.replace(original, params=params, newly_initialized=()), folder / "start")
    write_ticket(file, masks, original.params, made_by(config, belongs_to(config, number)))


def made_by(config: Config, model: str) -> dict[str, Any]:
    """What the file of a ticket says of it: the model that it belongs to, and how it was made."""
    names = ("method", "seed")
    if config.method == "iterative":
        names += ("iterations", "rewind", "head", "decay_over", "steps", "epochs", "batch_size")
    return {"model": model, "train": config.data.train, **{name: getattr(config, name) for name in names}}


def control(config: Config, initial: Bundle) -> str:
    """Makes the ticket of a control, which trains nothing. Returns the model that it belongs to."""
    import bertjax
    from bertjax.engine.hosts import on_main_process

    out = as_path(config.out)
    start = str(out / "start") if config.method == "shuffled" else config.model

    def make() -> None:
        params, dense = initial.params, unpruned(initial.params, initial.newly_initialized)
        if config.method == "shuffled":
            given = bertjax.load(config.model)  # without the new head; training adds one
            masks = fitting_masks(str(config.ticket), given.params)
            params = shuffled(given.params, masks, config.seed)
            bertjax.save(dataclasses.replace(given, params=params), start)
        elif config.method == "random":
            masks = random_masks(dense, config.sparsity, config.seed)
        else:
            masks = without_smallest(dense, params, config.sparsity)
        write_ticket(out / FILE, masks, params, made_by(config, start))

    on_main_process(make)  # again in a run that continues: the same file, in seconds
    return start


def next_step(config: Config) -> str:
    """How the ticket is tried on another task."""
    from bertjax.engine.commands import line

    file = as_path(config.out) / FILE
    model = read_ticket(file).made_by["model"]
    command = line("finetune", f"--model={model}", f"--ticket={file}", "--data.train=other.tsv", "--data.eval=dev.tsv")
    return f"zeros that stay in place save no time: expect no speed-up. The ticket on another task:\n  {command}"


def run(recipe: LotteryTicket, context: Context) -> StageResult:
    """The stage: finds a ticket for the context's model and trains it into its folder. What it cost is the cost of all
    trainings."""
    from bertjax.engine.record import begin, finish

    settings = {one.name: getattr(recipe, one.name) for one in dataclasses.fields(recipe) if one.init}
    config = Config(**{**settings, "model": context.model, "data": context.data, "out": context.out})
    out = as_path(config.out)
    if not begin(out, config, context.reader):
        train_ticket(config, Text.of_context(context))
        finish(out, {})
    result = result_of(context.out, context.data)
    folders = [out / f"iteration-{number + 1}" for number in range(config.trainings - 1)]
    iterations = [result_of(str(folder), context.data) for folder in folders]
    return result._replace(
        epochs=result.epochs + sum(one.epochs for one in iterations),
        seconds=result.seconds + sum(one.seconds for one in iterations),
    )
