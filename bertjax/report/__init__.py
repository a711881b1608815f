"""Measured numbers as tables, sentences, pictures and model cards.

from bertjax.report.build import Entry, measure_bundles
from bertjax.report.write import write_report

report = measure_bundles([Entry("teacher", "runs/x/teacher", predictions), ...], labels, texts,
                         task=task, baseline="teacher", source="demo")
write_report(report, "runs/x")          # report.json, report.md, report.png

table.py          the one table type, for Markdown, terminals and plain text
number_text.py    numbers with their units, and names of metrics
model_report.py   models measured side by side, as data; build.py measures them; model_text.py explains them
method_report.py  methods compared over several seeds, as data; method_text.py explains them
early_exit.py     thresholds of early exit
plot.py           the pictures; card.py and usage.py the README in a model's folder; write.py the files
"""
