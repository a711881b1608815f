"""What is said of measured numbers: tables, sentences, the plot, the model card.

from bertjax.report.build import Entry, measure_bundles
from bertjax.report.write import write_report

report = measure_bundles([Entry("teacher", "runs/x/teacher", predictions), ...], labels, texts,
                         task=task, baseline="teacher", source="demo")
write_report(report, "runs/x")          # report.json, report.md, report.png

report.py        the numbers as data
build.py         from folders and predictions to the numbers
text.py          the numbers in words; plot.py as a picture; card.py in a model's folder
comparison.py    methods with several seeds; comparison_text.py in words
"""
