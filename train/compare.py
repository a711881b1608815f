"""Compare methods: one teacher, one student shape, one training budget, several seeds, one table.

    bertjax compare --config=compare --out=runs/compare
    bertjax compare --config=compare --row=minilm_v2/seed1 --out=runs/again

A row is a name and stages, as `compress` runs them; the first stage begins with the teacher. All rows see the same
number of examples, in the same order for one seed: --epochs (or --steps) is the budget of a row, and its stages share
it in proportion to their own epochs. A stage that prunes removes parts of the model and does not get the student's
shape; a stage that quantises may follow. A stage that augments the text does not raise the budget. Three rows are
always there: no_teacher (labels only), more_epochs (labels only, and in addition as many epochs as training the teacher
and running it once cost) and bag_of_words.

Each row and seed has its folder, OUT/rows/ROW/seedN, and a finished one is not run again. A row that fails is reported
with its reason, the others go on, and the exit code is 4. Rows and seeds may be added to a finished comparison. The
report is OUT/report.md.
"""

from functools import partial
from typing import Any

from bertjax.engine.command_line import run
from bertjax.engine.fields import to_dict
from bertjax.engine.hosts import on_main_process
from bertjax.engine.log import note
from bertjax.engine.record import begin
from bertjax.jobs.compare import is_finished, run_row, set_up
from bertjax.jobs.comparison import Bench, measure
from bertjax.jobs.data import Text
from bertjax.jobs.stages import FAILED, Failure, attempt, leave_if, left_out
from bertjax.recipes.compare import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out, settings, text = as_path(config.out), to_dict(config), Text.of(config.data, verbose=False)
    recorded = {name: value for name, value in settings.items() if name not in ("rows", "seeds", "row")}
    begin(out, recorded, text.reader)
    if is_finished(config, settings):
        note(f"{out}: finished already; the report: {out / 'report.md'}")
        return
    bench = set_up(config, text)
    outcomes: dict[str, dict[int, Any]] = {}
    failures: list[Failure] = []
    for row, seed in config.chosen():
        name = f"{row.name}/seed{seed}"
        note(f"row {name}")
        work = partial(run_row, bench, row, seed)
        outcome = attempt(f"row {name}", out / "rows" / name, work, None if config.row else failures)
        outcomes.setdefault(row.name, {})[seed] = str(failures[-1]) if outcome is None else outcome
    if config.row is None:
        on_main_process(partial(conclude, bench, outcomes, failures))


def conclude(bench: Bench, outcomes: dict[str, dict[int, Any]], failures: list[Failure]) -> None:
    """Measures all rows and writes the report."""
    from bertjax.report.write import show, write_report

    comparison = measure(bench, outcomes)
    write_report(comparison, bench.out)
    show(comparison)
    note(f"the report: {bench.out / 'report.md'}")
    leave_if(left_out(failures), FAILED)


if __name__ == "__main__":
    run(main, __doc__)
