"""Distil a model into a smaller one: a fine-tuned teacher and text in, a student out.

    bertjax distill --model=runs/finetune/bundle --data.train=demo --data.eval=demo --out=runs/distill
    bertjax distill --model=runs/finetune/bundle --data.train=unlabelled.txt --epochs=5 --out=runs/mine

The student learns from the teacher's outputs (--losses), so text without labels is enough. The outputs are computed
once and stored in OUT/teacher (in the cache folder where OUT is in a bucket); a loss that needs more than they hold
makes the teacher run in every step. Several teachers (--teachers) are averaged.
"""

from bertjax.engine.command_line import run
from bertjax.engine.record import begin, finish
from bertjax.jobs.data import Text
from bertjax.jobs.distill import prepare
from bertjax.jobs.training import train
from bertjax.recipes.distill import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    out, text = as_path(config.out), Text.of(config.data, verbose=config.compile_only is None, model=config.model)
    if begin(out, config, text.reader):
        return
    prepared = prepare(config, text)
    student = train(config, config.out, prepared)
    finish(out, prepared.score(student), **prepared.fingerprints)


if __name__ == "__main__":
    run(main, __doc__)
