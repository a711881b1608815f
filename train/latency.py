"""Measure how long attention and feed-forward sublayers of each size take: the table that pruning for a speed-up reads.

    bertjax latency --model=runs/finetune/bundle --runtime=onnxruntime --threads=1 --out=runs/latency
    bertjax prune --criterion=second_order --speedup=2 --table=runs/latency/latency.json --out=runs/fast

Versions of the model whose layers have only some heads or only some neurons are timed on real texts, one text at a
time, each version in a process of its own and all taking turns. OUT/latency.json has the milliseconds of a sublayer by
its number of heads or neurons, for this runtime on this machine.
"""

from bertjax.engine.command_line import run
from bertjax.engine.log import note
from bertjax.engine.record import begin, finish
from bertjax.jobs.data import Text, open_model
from bertjax.jobs.latency import measure_table
from bertjax.recipes.latency import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out, text = as_path(config.out), Text.of(config.data)
    if begin(out, config, text.reader):
        return
    bundle, task = open_model(config.model, text.task(config.data.eval), 0)
    examples = text.reader.read(config.data.eval, task, "test", labelled=False)[1]
    timed = config.runtime, config.threads, config.sample, config.repeats
    table = measure_table(bundle, examples, config.data.max_length, *timed, notify=note)
    table.save(str(out / "latency.json"))
    note(f"{out / 'latency.json'}: {table.base:.2f} ms and {len(table.heads) + len(table.neurons)} times of parts")
    finish(out, {})


if __name__ == "__main__":
    run(main, __doc__, trains=False)
