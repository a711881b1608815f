"""Methods with several seeds: the table's numbers against plain NumPy, the tests against enumeration."""

import itertools

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.measure.latency import Percentiles
from bertjax.metrics.uncertainty import holm, mcnemar, mean_difference_interval, mean_interval, mean_p_value
from bertjax.report.methods import (
    Method,
    MethodComparison,
    MethodRun,
    markdown,
    method_rows,
    method_table,
    score_text,
    verdicts,
)
from bertjax.report.write import write_report

RNG = np.random.default_rng(3)
GOLD = RNG.integers(0, 2, 300)


def answers(share: float) -> np.ndarray:
    """Right in this share of the examples."""
    return np.where(RNG.random(len(GOLD)) < share, GOLD, 1 - GOLD)


def method(name: str, *shares: float, **more) -> Method:
    return Method(name, tuple(MethodRun(i, answers(p), 100.0, 10.0, 5.0 + i) for i, p in enumerate(shares)), **more)


METHODS = (
    Method("teacher", (MethodRun(None, answers(0.95)),)),
    method("no_teacher", 0.7, 0.72, 0.7),
    method("more_epochs", 0.7, 0.7, 0.75),
    Method("bag_of_words", (MethodRun(None, answers(0.6)),)),
    method("good", 0.9, 0.88, 0.91, paper=92.5, source="somebody, somewhere"),
    method("same", 0.71, 0.7, 0.72),
    method("half", 0.9, failures=((1, "burst"), (2, "burst"))),
    Method("gone", (), ((0, "no such layer"),)),
)


def right(name: str) -> np.ndarray:
    """Correctness by run and example."""
    return np.array([run.predictions == GOLD for m in METHODS if m.name == name for run in m.runs], float)


@pytest.fixture(scope="module")
def report() -> MethodComparison:
    rows, best = method_rows("accuracy", GOLD, METHODS)
    about = ("classification of x", "accuracy", "cpu", 2, Percentiles(7.0, 15.0))
    return MethodComparison(*about, tuple(rows), best, command="bertjax compare --out=again", teacher_cost="nothing")


def test_scores_and_differences_are_means_over_the_seeds(report):
    for name in ("no_teacher", "more_epochs", "bag_of_words", "good", "same"):
        assert report.row(name).score == pytest.approx(right(name).mean())
    drawn = np.random.default_rng(0).integers(300, size=(2000, 300))
    ours, theirs = right("good").mean(0), right("no_teacher").mean(0)
    near = 0.01  # one example more of 300, and other draws
    assert report.row("good").score_ci95 == pytest.approx(np.percentile(ours[drawn].mean(1), (2.5, 97.5)), abs=near)
    found = report.row("good").differences["no_teacher"]
    assert found.value == pytest.approx(ours.mean() - theirs.mean())
    assert found.ci95 == pytest.approx(np.percentile((ours - theirs)[drawn].mean(1), (2.5, 97.5)), abs=near)
    assert found.p_value == pytest.approx(4 / 10_001)  # no swap is as extreme; five rows, "half" before it
    half = report.row("half").differences["no_teacher"]
    assert half.value == pytest.approx(right("half").mean() - right("no_teacher")[0].mean())  # the seed that both have
    words = report.row("bag_of_words").differences["no_teacher"]
    assert words.value == pytest.approx(right("bag_of_words").mean() - theirs.mean())
    below = report.row("good").differences["teacher"]
    assert below.value == pytest.approx(ours.mean() - right("teacher").mean())  # which has one run, for every seed
    assert "teacher" not in report.row("teacher").differences
    assert (report.row("good").passes, report.row("good").seconds) == (100, 6)


def test_the_text_names_differences_that_are_not_significant_and_failures(report):
    said = " ".join(verdicts(report))
    assert "**good** is **better** than *no teacher*" in said
    assert "**same** next to *no teacher*: not statistically distinguishable" in said
    assert "**bag of words** is **worse** than *no teacher*" in said
    assert "better than that: good, half" in said
    assert "The best row is **half**" in said or "The best row is **good**" in said
    assert "**gone**, seed 0, failed: no such layer" in said
    assert "(1 of 3 seeds)" in score_text(report.row("half"))
    table = method_table(report)
    cells = {row[0]: dict(zip(table.headings, row, strict=True)) for row in table.rows}
    assert cells["gone"]["accuracy [95 %]"] == "failed"
    assert (cells["good"]["paper"], cells["good"]["run it again"]) == ("92.5", "`--row=good`")
    assert "somebody, somewhere" in markdown(report, "report.png")


def test_the_picture_and_the_files_are_written(report, tmp_path):
    write_report(report, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.png", "report.json"}


def test_where_every_run_failed_there_is_still_a_table():
    rows, best = method_rows("accuracy", GOLD, [METHODS[0], Method("no_teacher", (), ((0, "x"),)), METHODS[-1]])
    assert best is None
    assert [row.score is None for row in rows] == [False, True, True]


def test_holms_correction_by_hand():
    # sorted 0.01 0.02 0.03 0.4: times 4, 3, 2, 1 is 0.04 0.06 0.06 0.4
    assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert holm([0.02, 0.03, 0.011]) == pytest.approx([0.04, 0.04, 0.033])  # the second is not below the one before it
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_test_of_several_runs_swaps_an_example_in_all_of_them():
    gold = np.ones(8, int)
    a = [np.array(row) for row in ([1, 1, 1, 1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 1, 1, 0])]
    b = [np.array(row) for row in ([0, 1, 1, 0, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1, 0, 0])]
    moved = np.mean(a, axis=0) - np.mean(b, axis=0)
    signs = np.array(list(itertools.product((1, -1), repeat=8)))
    exact = np.mean(np.abs(signs @ moved) >= abs(moved.sum()) - 1e-12)
    assert mean_p_value("accuracy", a, b, gold) == pytest.approx(exact, abs=0.015)
    assert mean_p_value("accuracy", a[:1], b[:1], gold) == mcnemar(a[0] > 0, b[0] > 0)
    with pytest.raises(UserError, match="2 runs on one side and 1"):
        mean_p_value("accuracy", a, b[:1], gold)


def test_a_run_counted_twice_says_nothing_new():
    one, other = answers(0.8), answers(0.7)
    for metric in ("accuracy", "f1", "matthews", "spearman"):
        once, twice = (mean_interval(metric, [one] * n, GOLD, resamples=50) for n in (1, 2))
        assert once == pytest.approx(twice)
        once = mean_difference_interval(metric, [one], [other], GOLD, resamples=50)
        assert once == pytest.approx(mean_difference_interval(metric, [one] * 2, [other], GOLD, resamples=50))
