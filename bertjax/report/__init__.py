"""Measured numbers as tables, sentences, pictures and model cards.

from bertjax.report.build import Entry, measure_bundles
from bertjax.report.write import write_report

report = measure_bundles([Entry("teacher", "runs/x/teacher", predictions), ...], labels, texts,
                         task=task, baseline="teacher", source="demo")
write_report(report, "runs/x")          # report.json, report.md, report.png

models.py       models measured side by side; build.py measures them
methods.py      methods compared over several seeds
early_exit.py   thresholds of early exit
token_ladder.py shares of tokens, from many to few
table.py        the one table type, for Markdown, terminals and plain text
number_text.py  numbers with their units, and names of metrics
parts.py        sentences and sections that these reports share
plot.py         the pictures; card.py and usage.py the README in a model's folder; write.py the files;
run.py          all of it read again from a run's folder
"""
