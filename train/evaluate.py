"""Measure finished models side by side: score with its interval, size, memory, arithmetic, time. Nothing is trained.

    bertjax evaluate --model=runs/finetune/bundle --against runs/distill/bundle runs/quantize/bundle --out=runs/evaluate

The first model is the baseline that the others are compared with. Exported folders may be among those, and are
measured in ONNX Runtime, in OpenVINO, or in the faster of both (--runtime). With --data.train, a bag of words fitted on
that text is measured too. The report is OUT/report.md.
"""

from bertjax.engine.command_line import run
from bertjax.engine.commands import command_for
from bertjax.engine.fields import to_dict
from bertjax.engine.log import note
from bertjax.jobs.data import Text, describe_for
from bertjax.jobs.evaluate import open_models
from bertjax.jobs.report import build_report
from bertjax.recipes.evaluate import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    from bertjax.report.write import show

    text, out = Text.of(config.data, model=config.model), as_path(config.out)
    # The default training text is the demo, which belongs to no other evaluation text.
    learned = config.data.train != "demo" or config.data.eval == "demo"
    task = text.task() if learned else text.task(config.data.eval, "test")
    models = open_models(config, task)
    if not learned:
        note("without --data.train, no bag of words is fitted as a baseline")
    facts = describe_for(text, str(models[0].folder), task, learned)
    about = {
        "command": command_for("evaluate", config),
        "settings": to_dict(config),
        "learned": learned,
        "facts": facts,
        "runtime": config.runtime,
    }
    show(build_report(models, text, out, task=task, **about))
    note(f"the report: {out / 'report.md'}")


if __name__ == "__main__":
    run(main, __doc__, trains=False)
