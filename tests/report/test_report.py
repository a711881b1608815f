"""The report's files: their schema, what they say in words, and a picture whose labels can be read."""

import dataclasses
import io
import itertools
import json
import re
from typing import Any

import pytest
from rich.console import Console

from bertjax.errors import UserError
from bertjax.measure.latency import Edge, Latency, PeakMemory, Percentiles
from bertjax.metrics.uncertainty import proportion_difference_interval
from bertjax.report.models import (
    BAG_OF_WORDS,
    WITHOUT_TEACHER,
    Flip,
    ModelRow,
    Report,
    how_measured,
    markdown,
    model_table,
    read_report,
    verdicts,
)
from bertjax.report.number_text import bytes_text
from bertjax.report.parts import Difference
from bertjax.report.plot import figure
from bertjax.report.write import write_report
from bertjax.text.facts import Facts
from bertjax.token_dropping.costs import TokensLeft


def row(name, score, ms, size, **changes):
    latency = Latency(Percentiles(ms, 2 * ms), Percentiles(1.1 * ms, 2.2 * ms))
    interval = (score - 0.02, score + 0.02)
    values = ModelRow(
        name, None, "jax", score, interval, None, 22_713_216, size, 1.1e9, 9.8e7, PeakMemory(10**8, 6 * 10**8), latency
    )
    return dataclasses.replace(values, throughput_per_s={"batch_32": 310.0}, **changes)


TEACHER = row("teacher", 0.87, 5.2, 90_900_000)
STUDENT = row("student", 0.85, 1.7, 56_000_000, p_value_vs_baseline=0.02)
WITHOUT = row(WITHOUT_TEACHER, 0.84, 1.71, 56_000_000, p_value_vs_baseline=1e-4)
WORDS = row(BAG_OF_WORDS, 0.77, 0.06, 2_100_000, p_value_vs_baseline=1e-9, runtime="sklearn", flops_per_example=None)
BETTER = Difference(0.08, (0.05, 0.11), 1e-4)
UNCLEAR = Difference(0.01, (-0.001, 0.02), 0.07)
REPORT = Report(
    "classification of demo",
    "accuracy",
    "cpu: a processor",
    2,
    Percentiles(26.0, 47.0),
    "teacher",
    (TEACHER, STUDENT, WITHOUT, WORDS),
    {"seed": 0},
    {"jax": "0.10.2"},
    {
        ("student", "teacher"): Difference(-0.02, (-0.035, -0.004), 0.02),
        ("student", WITHOUT_TEACHER): UNCLEAR,
        ("student", BAG_OF_WORDS): BETTER,
    },
    (
        Flip("student", "a | *fine* film\n", "fresh", "fresh", "rotten"),
        Flip("student", "dull", "rotten", "fresh", "rotten"),
    ),
    (("Four layers", "bertjax compress --student.layers=4"),),
)

SCHEMA = {
    "task": str,
    "metric": str,
    "device": str,
    "threads": int,
    "lengths": {"p50": float, "p95": float},
    "baseline": str,
    "rows": list,
    "config": dict,
    "versions": dict,
    "texts": list,
}
ROW = {
    "name": str,
    "bundle": (str, type(None)),
    "runtime": str,
    "score": float,
    "score_ci95": list,
    "p_value_vs_baseline": (float, type(None)),
    "parameters": int,
    "size_bytes": int,
    "flops_per_example": (float, type(None)),
    "bytes_accessed_per_example": (float, type(None)),
    "peak_memory_bytes": {"inference": (int, type(None)), "training_step": (int, type(None))},
    "latency_ms": {"batch_1": {"p50": float, "p95": float}, "end_to_end": {"p50": float, "p95": float}},
    "throughput_per_s": {"batch_32": float},
    "exported_from": (str, type(None)),
    "edge": (dict, type(None)),
    "tokens_left": (dict, type(None)),
}


def assert_follows(content, schema):
    if isinstance(schema, dict):
        assert content.keys() == schema.keys()
        for name, part in schema.items():
            assert_follows(content[name], part)
    else:
        assert isinstance(content, schema)


def test_report_json_has_the_published_fields_and_no_others(tmp_path):
    write_report(REPORT, tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert_follows(content, SCHEMA)
    for written in content["rows"]:
        assert_follows(written, ROW)


def test_tokens_that_are_left_are_told_with_the_times_of_their_model(tmp_path):
    left = TokensLeft((10.44, 7.9), 0.503)
    report = dataclasses.replace(REPORT, rows=(TEACHER, dataclasses.replace(STUDENT, tokens_left=left), WITHOUT, WORDS))
    sentence = verdicts(report)[0]
    assert sentence == (
        "**student** drops tokens: mean tokens after each layer 10.4, 7.9; 50 % of the FLOPs left at real lengths; "
        "1.70 ms for one text; 3.23 ms a text in batches of 32."
    )
    assert sentence in write_report(report, tmp_path).read_text()
    assert read_report(tmp_path / "report.json").row("student").tokens_left == left


def test_bundle_paths_are_relative_to_the_report_and_come_back_whole(tmp_path):
    bundle = str(tmp_path / "run" / "student" / "bundle")
    rows = (TEACHER, dataclasses.replace(STUDENT, bundle=bundle))
    report = dataclasses.replace(REPORT, rows=rows, comparisons={}, flips=(), next_steps=())
    write_report(report, tmp_path / "run" / "report")
    written = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert [r["bundle"] for r in written["rows"]] == [None, "../student/bundle"]
    assert read_report(tmp_path / "run" / "report" / "report.json") == report


def test_what_was_read_is_in_both_files_and_comes_first_where_texts_are_not_new(tmp_path):
    learned = Facts("train", "a.tsv", 8, 0, 32, 0.0)
    for seen, warned in ((3, True), (0, False)):
        scored = Facts("eval", "b.tsv", 4, 2, 32, 0.125, ("left out 1 of 5",), seen=seen)
        report = dataclasses.replace(REPORT, texts=(learned, scored), comparisons={}, flips=(), next_steps=())
        written = write_report(report, tmp_path).read_text()
        assert "Eval: b.tsv, 4 texts, 2 cut at 32 tokens, 12.5 % [UNK]; left out 1 of 5." in written
        assert read_report(tmp_path / "report.json") == report
        assert (
            verdicts(report)[0] == "**Warning: 3 of 4 texts of b.tsv (eval) are also in a.tsv (train): the score "
            "is not measured on unseen text**."
        ) == warned
        assert ("No text of b.tsv is in the text that was trained" in written) != warned


def test_verdicts_say_in_words_what_was_beaten_and_what_was_not():
    said = verdicts(REPORT)
    assert len(said) == 3  # none for the first model and the baselines
    assert "worse (difference -2.0 points, 95 % interval -3.5 to -0.4, p = 0.020)" in said[0]
    assert "1.6x smaller on disk, not fewer FLOPs, 3.1x faster" in said[0]
    assert "does **not** beat *same small model, trained without a teacher*" in said[1]
    assert "beats *bag of words* (difference +8.0 points, 95 % interval +5.0 to +11.0, p < 0.001)" in said[2]


def test_a_difference_is_real_where_interval_and_exact_test_both_say_so():
    """Five disagreements, all for one model: the interval is clear of 0, and a coin falls so in 6 % of all tries."""
    low, high = proportion_difference_interval(5, 0, 1000)
    few = Difference(0.005, (float(low), float(high)), 0.0625)
    assert few.ci95[0] > 0
    (_, said) = verdicts(dataclasses.replace(REPORT, comparisons={("student", BAG_OF_WORDS): few}))
    assert said.startswith("**student** does **not** beat *bag of words*")


def test_how_it_was_measured_names_the_interval_of_the_metric():
    assert "95 % interval is exact (Clopper and Pearson)" in how_measured(REPORT)
    assert "95 % interval is a bootstrap over the examples and one more" in how_measured(
        dataclasses.replace(REPORT, metric="f1")
    )


def exported(name: str, of: str, ms: float) -> ModelRow:
    edge = Edge(Percentiles(1.5 * ms, 2.0 * ms), 812.0, 123_400_000, 95.0)
    return row(name, 0.85, ms, 14_000_000, bundle=f"/x/{name}", exported_from=of, runtime="onnxruntime", edge=edge)


def test_an_exported_model_is_timed_against_the_exported_baseline(tmp_path):
    teacher, student = (dataclasses.replace(one, bundle=f"/x/{one.name}") for one in (TEACHER, STUDENT))
    rows = (teacher, exported("teacher-onnx", "/x/teacher", 4.0), student, exported("int8", "/x/rounded", 1.0))
    report = dataclasses.replace(
        REPORT, rows=rows, comparisons={}, flips=(), conclusion="Kept: int8.", runtimes=("int8 is fast",)
    )
    assert [report.against(one).name for one in rows] == ["teacher", "teacher", "teacher", "teacher-onnx"]
    assert [cells[-1] for cells in model_table(report).rows] == [
        "-",
        "1.3x",
        "3.1x",
        "4.0x",
    ]  # 4.0 / 1.0, not 5.2 / 1.0
    text = markdown(report, "report.png")
    assert "**int8** next to *teacher-onnx*" in text
    assert "compared in speed with *teacher-onnx*" in text
    assert "**Kept: int8.**" in text
    assert "- int8 is fast.\n" in text
    assert "| int8 | 1.50 | 2 | 95 | 812 | 123 MB |" in text
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json").rows == rows
    elsewhere = dataclasses.replace(rows[3], runtime="openvino")
    assert dataclasses.replace(report, rows=(*rows[:3], elsewhere)).against(elsewhere).name == "teacher-onnx"
    alone = dataclasses.replace(report, rows=(teacher, rows[3]))
    assert alone.against(rows[3]) == teacher  # nothing else to compare with


@pytest.mark.parametrize(
    ("ms", "says", "cell"),
    [
        (5.2 / 1.04, "**no speed-up (time ratio 1.04)**", "no speed-up"),
        (5.2 / 1.06, "1.06x faster", "1.06x"),
        (10.4, "**slower by 2.0x**", "2.0x slower"),
    ],
)
def test_a_time_ratio_under_five_percent_is_no_speed_up(ms, says, cell):
    report = dataclasses.replace(REPORT, rows=(TEACHER, row("student", 0.85, ms, 1)))
    assert says in verdicts(report)[0]
    assert model_table(report).rows[1][-1] == cell


def test_fewer_parameters_with_the_same_flops_save_memory_and_no_time():
    shared = dataclasses.replace(
        STUDENT,
        parameters=13_800_000,
        peak_memory_bytes=PeakMemory(6 * 10**7, 4 * 10**8),
        throughput_per_s={"batch_32": 318.0},
    )
    [said] = verdicts(dataclasses.replace(REPORT, rows=(TEACHER, shared), comparisons={}))
    assert said.endswith(
        "Fewer parameters need as many FLOPs: that saves memory (inference 60.0 MB instead of 100 MB, training, "
        "optimiser state included, 400 MB instead of 600 MB); in batches of 32, no time saved."
    )
    faster = dataclasses.replace(shared, throughput_per_s={"batch_32": 372.0})
    assert "in batches of 32, 1.2x the speed." in verdicts(dataclasses.replace(REPORT, rows=(TEACHER, faster)))[0]
    unmeasured = dataclasses.replace(shared, throughput_per_s={})
    assert verdicts(dataclasses.replace(REPORT, rows=(TEACHER, unmeasured)))[0].endswith("400 MB instead of 600 MB).")
    halved = dataclasses.replace(shared, flops_per_example=5e8)
    assert "Fewer parameters" not in verdicts(dataclasses.replace(REPORT, rows=(TEACHER, halved)))[0]


def test_markdown_holds_table_picture_verdicts_flips_both_ways_and_commands(tmp_path):
    text = write_report(REPORT, tmp_path).read_text(encoding="utf-8")
    for part in (
        "| student | jax | 85.0 [83.0, 87.0] | 0.020 | 22.7M | 56.0 MB | 1.10G | 100 MB | 600 MB | 1.70 |",
        "![accuracy against time](report.png)",
        "*teacher* was right, *student* is wrong:\n\n- a \\| \\*fine\\* film (fresh → rotten; gold: fresh)",
        "*teacher* was wrong, *student* is right:\n\n- dull (fresh → rotten; gold: rotten)",
        "```sh\nbertjax compress --student.layers=4\n```",
        "cpu: a processor, 2 threads",
    ):
        assert part in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_table_fits_a_narrow_terminal():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(model_table(REPORT).rich())
    text = console.export_text()
    assert "…" not in text
    assert "85.0 [83.0, 87.0]" in text


def test_numbers_keep_three_digits():
    said = [bytes_text(n) for n in (0, 999, 1000, 12_345, 90_868_376, 999_999_999, None)]
    assert said == ["0 B", "999 B", "1.00 kB", "12.3 kB", "90.9 MB", "1.00 GB", "-"]


@pytest.mark.parametrize("crowded", [False, True])
def test_labels_of_the_picture_overlap_neither_each_other_nor_the_frame(crowded):
    more = [row(f"student, variant {i}", 0.85 + 0.001 * i, 1.7 + 0.05 * i, 10**7 * (i + 1)) for i in range(4 * crowded)]
    drawn = figure(dataclasses.replace(REPORT, rows=(*REPORT.rows, *more)))
    drawn.canvas.draw()
    axes = drawn.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 4 + len(more)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_picture_is_drawn_for_one_row_and_for_none_with_a_time():
    figure(dataclasses.replace(REPORT, rows=(TEACHER,)))
    figure(dataclasses.replace(REPORT, rows=(dataclasses.replace(TEACHER, latency_ms=None),)))
    assert "speed" in markdown(
        dataclasses.replace(REPORT, rows=(dataclasses.replace(TEACHER, latency_ms=None),)), "x.png"
    )


def test_rows_need_names_of_their_own_and_a_baseline():
    with pytest.raises(UserError, match="need different names"):
        dataclasses.replace(REPORT, rows=(TEACHER, TEACHER))
    with pytest.raises(UserError, match=r"the baseline .gold. among them"):
        dataclasses.replace(REPORT, baseline="gold")


@pytest.mark.parametrize(
    ("path", "given", "said"),
    [
        ("rows", 5, "report.json.rows is 5; expected a list"),
        ("rows.0", [], "rows[0] is []; expected an object"),
        ("rows.0.score", "high", 'rows[0].score is "high"; expected a number'),
        ("rows.0.score_ci95", [0.1], "rows[0].score_ci95 is [0.1]; expected a list (a number, a number)"),
        ("rows.0.latency_ms", 3, "rows[0].latency_ms is 3; expected an object"),
        ("rows.0.parameters", 1.5, "rows[0].parameters is 1.5; expected a whole number"),
        ("rows.0.spin", 1, 'rows[0] has a field "spin" that this version does not know'),
        ("lengths", None, "lengths is null; expected an object"),
        ("versions", [], "versions is []; expected an object"),
        ("baseline", "nobody", "The rows of a report need different names, the baseline 'nobody' among them"),
    ],
)
def test_a_report_with_something_else_in_it_is_named(path, given, said, tmp_path):
    content = json.loads(REPORT.json_text(tmp_path))
    branch: Any = content
    *way, last = path.split(".")
    for name in way:
        branch = branch[int(name) if isinstance(branch, list) else name]
    branch[int(last) if isinstance(branch, list) else last] = given
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(said)):
        read_report(tmp_path / "report.json")
    with pytest.raises(UserError, match="no such file; expected the report"):
        read_report(tmp_path / "other.json")
