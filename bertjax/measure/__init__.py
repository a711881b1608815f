"""Proof: what a smaller model costs in score and saves in size, memory, arithmetic and time, measured on what ships.

    from bertjax.measure import Entry, measure_bundles, read_report, score, write_card

    report = measure_bundles([Entry("teacher", "runs/x/teacher", predictions), ...], labels, texts,
                             task=task, baseline="teacher", source="demo")
    report.write("runs/x")                  # report.json, report.md, report.png
    write_card("runs/x/bundle", report, "student", task=task, source="demo", command="bertjax compress ...")

    scores.py        every metric behind one door, and as sums over examples
    spans.py         entities and SQuAD answers
    uncertainty.py   intervals and paired tests
    cost.py          parameters, stored bytes, FLOPs, memory traffic, peak memory: no clock
    latency.py       the clock: each runtime in its own process (worker.py), taking turns
    edge.py          one thread, cold start, memory of the process: what a small device has to have
    bag_of_words.py  the baseline without a neural network
    report.py        the numbers as data; words.py, picture.py, card.py: for people
    bundles.py       all of it in one call

The trade-off: an interval over examples says how the score would move on other texts of the kind, not on another seed
of the training; for that, train again. And time is this machine's: the ratio of two rows travels better than either.
A clean measurement takes about a minute, since processes take turns and nothing is timed only once.
"""

from bertjax.measure.bag_of_words import fit_bag_of_words, load_bag_of_words
from bertjax.measure.bundles import Entry, measure_bundles
from bertjax.measure.card import write_card
from bertjax.measure.latency import Candidate, measure_latency
from bertjax.measure.report import BAG_OF_WORDS, WITHOUT_TEACHER, Report, Row, read_report
from bertjax.measure.scores import score
from bertjax.measure.uncertainty import paired_difference_interval, paired_p_value, score_interval
from bertjax.measure.words import rich_table, verdicts

__all__ = [
    "BAG_OF_WORDS",
    "WITHOUT_TEACHER",
    "Candidate",
    "Entry",
    "Report",
    "Row",
    "fit_bag_of_words",
    "load_bag_of_words",
    "measure_bundles",
    "measure_latency",
    "paired_difference_interval",
    "paired_p_value",
    "read_report",
    "rich_table",
    "score",
    "score_interval",
    "verdicts",
    "write_card",
]
