"""The main job: stages that make a model smaller, and a report of what each gained and cost.

    bertjax compress --config=quickstart --out=runs/quickstart
    bertjax compress --config=quickstart --model=./my-bert --data.train=train.tsv --data.eval=dev.tsv

Each stage begins with a model folder and makes one, in OUT/stages. A finished stage is not run again, and an unfinished
one continues. A model that already has a trained head for the task is used as the teacher without training. At the end
every model is measured together with two baselines, the same small model trained without a teacher and a bag of words:
OUT/report.md. After a last stage that exports, the teacher is exported too, and the two files are compared.

    bertjax compress --model=./my-bert --data.train=train.tsv --data.eval=dev.tsv --max_drop=1 --min_speedup=8 \
        --minutes=60

With a bound (--max_drop, --min_speedup, --max_mb) the fastest model within the bounds is searched for: models of many
shapes are cut out of the teacher and trained for few steps, the best of them for longer. The choice is made on held-out
text, and what is kept is reported on the evaluation text. If nothing is within the bounds, the best file is kept, and
the exit code is 3. OUT/search.json and OUT/front.png show what was found so far.

A stage that fails is left out, with all stages that would have started from its model. The rest is measured and kept,
and the exit code is 4. The same command again repeats what failed.
"""

import contextlib

from bertjax.engine.command_line import run
from bertjax.engine.hosts import is_main_process, on_main_process
from bertjax.engine.log import Log
from bertjax.engine.record import begin, read_record
from bertjax.jobs.budget import MISSED
from bertjax.jobs.compress import Compression, check, conclude, run_stages
from bertjax.jobs.data import Text, describe_for
from bertjax.jobs.stages import leave_if
from bertjax.recipes.compress import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    from bertjax.jobs.search import search

    out, stages = as_path(config.out), config.planned_stages()
    check(stages, config.chooses, config.runtime)
    text = Text.of(config.data, verbose=False, model=config.model)
    if begin(out, config, text.reader):
        leave_if((read_record(out) or {}).get("missed"), MISSED)
        return
    task = text.task()
    facts = describe_for(text, config.model, task)
    with contextlib.closing(Log(out, "compressing", len(stages), start=None, quiet=not is_main_process())) as log:
        job = Compression(config, out, text, task, log, [])
        models, files = search(job) if config.chooses else (run_stages(job), [])
        on_main_process(lambda: conclude(job, models, facts, files))


if __name__ == "__main__":
    run(main, __doc__)
