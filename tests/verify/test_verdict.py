"""Bounds are arithmetic, and causes follow from what was measured: both on numbers made by hand."""

from dataclasses import replace
from typing import Any

import pytest

from bertjax.errors import UserError
from bertjax.measure.latency import Latency, Percentiles, Timing
from bertjax.measure.onnx import Graph
from bertjax.verify import Bounds, Failure, Measured, verdict
from bertjax.verify.__main__ import _parser, run
from bertjax.verify.measured import Claim, Parity, Side, Weights
from bertjax.verify.text import lines

BOUNDS = Bounds(min_speedup=2.0, max_drop=1.0, max_mb=10.0)
SHAPES = ((8, 8), (8, 32))


def timing(milliseconds: float, per_s: float | None = None, runtime: str = "onnxruntime") -> Timing:
    both = Percentiles(float(milliseconds), 2.0 * milliseconds)
    repeats = tuple(milliseconds * factor for factor in (1.0, 0.98, 1.02))
    versions = {runtime: "1.2"}
    return Timing(runtime, "cpu", 1, versions, Latency(both, both), float(per_s or 1000 / milliseconds), repeats)


OLD = Side("old", 0.90, (0.88, 0.92), timing(10), 20_000_000, Weights(19_000_000, SHAPES, 0.0, "all of it"), answers=2)
NEW = replace(
    OLD,
    folder="new",
    timing=timing(2.5),
    bytes=5_000_000,
    weights=Weights(4_900_000, ((4, 4),), 0.0, "half"),
    file_bytes=4_200_000,
)
GOOD = Measured("accuracy", 1000, 2, OLD, NEW, (-0.005, 0.005), 0.6, 0.99, 1.0)


def changed(old: dict[str, Any] | None = None, new: dict[str, Any] | None = None, **more: Any) -> Measured:
    return replace(GOOD, old=replace(OLD, **old or {}), new=replace(NEW, **new or {}), **more)


def only(failures: list[Failure]) -> Failure:
    assert len(failures) == 1, failures
    return failures[0]


def graph(stored: dict[str, int], executed: dict[str, int], widened: int = 0) -> dict[str, Any]:
    return {"graph": Graph(stored, executed, widened)}


def test_what_keeps_to_its_bounds_passes_and_no_bound_is_no_failure():
    assert verdict(GOOD, BOUNDS) == []
    assert verdict(changed(new={"score": 0.1, "timing": timing(100), "bytes": 10**9}), Bounds()) == []


@pytest.mark.parametrize(
    ("new", "bounds", "said"),
    [
        ({"score": 0.8899}, BOUNDS, "the score fell by 1.01 points; the bound is a loss of at most 1"),
        ({"score": float("nan")}, BOUNDS, "the score fell by nan points"),
        ({"score": 0.906}, Bounds(max_drop=-1.0), "the score rose by 0.60 points; the bound is a gain of at least 1"),
        ({"timing": timing(5.1)}, BOUNDS, "1.96 times as fast as OLD; the bound is at least 2 times"),
        ({"bytes": 10_010_000}, BOUNDS, "NEW takes 10.01 MB; the bound is at most 10 MB"),
    ],
)
def test_each_bound_fails_alone(new: dict[str, Any], bounds: Bounds, said: str):
    assert said in only(verdict(changed(new=new), bounds)).what


def test_bounds_that_are_just_met_hold():
    just = changed(old={"score": 0.75}, new={"score": 0.74 + 1e-9, "timing": timing(5), "bytes": 10_000_000})
    assert verdict(just, BOUNDS) == []


VNNI, PLAIN = frozenset({"avx2", "avx512_vnni"}), frozenset({"avx2"})
INTEGERS = graph({"MatMulInteger": 4}, {"DynamicQuantizeMatMul": 4})
STORED = graph({"MatMul": 4, "DequantizeLinear": 4}, {"MatMul": 4, "DequantizeLinear": 4}, widened=12)
SLOW = {"timing": timing(9)}


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (
            changed(new=SLOW | INTEGERS, features=PLAIN),
            ["this processor has none of the instructions for them: AVX-512 VNNI"],
        ),
        (changed(new=SLOW | INTEGERS, features=VNNI), []),
        (changed(new=SLOW | INTEGERS, features=frozenset({"asimddp"})), []),
        (changed(new=SLOW | INTEGERS), []),  # a processor that does not say
        (
            changed(new=SLOW | STORED, features=VNNI),
            ["it runs no integer matrix product", "75% of NEW's weights are stored as integers, and every call"],
        ),
        (
            changed(new=SLOW | graph({"QLinearMatMul": 3}, {"QLinearMatMul": 3, "MatMul": 2}), features=VNNI),
            ["of the 5 matrix products that ONNX Runtime runs, 2 still multiply floats"],
        ),
        (
            changed(new=SLOW | graph({}, {"Softmax": 6, "ReduceMean": 13, "MatMul": 9})),
            [
                "attention is not fused: ONNX Runtime runs 6 separate Softmax nodes",
                "LayerNorm is not fused: ONNX Runtime runs 13",
            ],
        ),
        (
            changed(old=graph({}, {"Attention": 6}), new=SLOW | graph({}, {"Softmax": 6, "LayerNormalization": 9})),
            ["attention is not fused: ONNX Runtime runs 6 separate Softmax nodes; in OLD it is fused"],
        ),
        (
            changed(
                old=graph({}, {"Softmax": 6}),
                new=SLOW | graph({}, {"Softmax": 6, "ReduceMean": 1, "SkipLayerNormalization": 2}),
            ),
            ["in OLD it is not fused either"],
        ),
        (changed(new=SLOW | graph({}, {"Softmax": 1, "Attention": 6})), []),  # one Softmax may be the answer's
        (
            changed(new=SLOW | {"weights": Weights(19_000_000, SHAPES, 0.6, "")}),
            ["60% of NEW's weights are zero (0% of OLD's), in arrays of the same shapes: zeros that stay in place"],
        ),
        (changed(new=SLOW | {"weights": Weights(19_000_000, ((8, 8),), 0.6, "")}), []),
        (changed(new=SLOW | {"weights": OLD.weights}), ["NEW's arrays have OLD's shapes and are multiplied as floats"]),
        (
            changed(old={"timing": timing(0.2, 20_000)}, new={"timing": timing(0.19, 21_000)}),
            ["0.20 ms for a text alone and"],
        ),
        (changed(old={"timing": timing(0.2, 5_000)}, new={"timing": timing(0.19, 5_100)}), []),
        (
            changed(new={"timing": timing(9, 250)}),
            ["single texts were timed: in batches of 32 NEW is 2.50 times as fast"],
        ),
        (changed(new={"timing": timing(9, runtime="jax")}), ["OLD runs in onnxruntime and NEW in jax"]),
        (changed(new=SLOW), []),
    ],
)
def test_a_model_that_is_too_slow_is_told_what_was_seen(measured: Measured, said: list[str]):
    failure = only(verdict(measured, BOUNDS))
    assert "times as fast" in failure.what
    assert len(failure.causes) == len(said)
    assert all(part in cause for part, cause in zip(said, failure.causes, strict=True)), failure.causes


WORSE = {"score": 0.80}
SURE: dict[str, Any] = {"difference": (-0.12, -0.08)}


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (
            changed(new=WORSE, agreement=0.1, renamed=0.97, **SURE),
            ["OLD for 97.0% of the texts if its classes are renamed"],
        ),
        (changed(new=WORSE | {"answers": 1}, **SURE), ["NEW predicts the same for every text"]),
        (changed(new=WORSE | {"answers": 1}, labels=1, **SURE), []),
        (changed(new=WORSE, same_tokens=0.75, **SURE), ["other ids than OLD's for 25.0% of the texts"]),
        (changed(new=WORSE | {"truncated": 7}, **SURE), ["NEW truncates 7 texts and OLD 0"]),
        (
            changed(new=WORSE, parity=Parity("b", 1e-5, 1e-5, 1.0), **SURE),
            ["b in JAX predicts the same as NEW: the score was lost before"],
        ),
        (
            changed(new=WORSE, parity=Parity("b", 3.0, 0.09, 0.8), **SURE),
            ["predicts differently for 20.0% of the texts"],
        ),
        (changed(new=WORSE | INTEGERS, features=PLAIN, **SURE), []),
        (
            changed(new=WORSE | INTEGERS | {"inexact": ("query", "key")}, features=PLAIN, **SURE),
            ["computes wrong integer products on this processor, for 2 matrices (the first is query)"],
        ),
        (
            changed(new=WORSE, difference=(-0.3, 0.1)),
            ["1000 texts are too few to be certain: the 95 % interval of the change reaches up to +10"],
        ),
        (changed(new=WORSE, **SURE), []),
    ],
)
def test_a_model_that_is_too_bad_is_told_what_was_seen(measured: Measured, said: list[str]):
    failure = only(verdict(measured, BOUNDS))
    assert "the score fell by 10.00 points" in failure.what
    assert len(failure.causes) == len(said)
    assert all(part in cause for part, cause in zip(said, failure.causes, strict=True)), failure.causes


@pytest.mark.parametrize("distance", [0.11, float("nan")])
def test_a_file_that_computes_something_else_than_its_bundle_is_refused_whatever_its_score(distance: float):
    failure = only(verdict(changed(parity=Parity("b", 3.0, distance, 1.0)), Bounds()))
    assert "NEW's logits are not those of b in JAX" in failure.what
    assert failure.causes == ()
    wrong = changed(new={"inexact": ("query",)}, parity=Parity("b", 3.0, distance, 1.0))
    assert "other processors may be exact" in only(verdict(wrong, Bounds())).causes[0]


def test_a_model_whose_logits_are_no_numbers_is_refused_whatever_was_asked():
    assert only(verdict(changed(new={"finite": False}), Bounds())).what == "some of NEW's logits are NaN or infinite"


@pytest.mark.parametrize("name", ["min_speedup", "max_drop", "max_mb"])
@pytest.mark.parametrize("bound", ["nan", "inf", "-inf"])
def test_a_bound_that_is_no_number_is_refused(name: str, bound: str):
    flag = f"--{name}={bound}"
    with pytest.raises(UserError, match=f"{flag}: expected a finite number"):
        Bounds(**{name: float(bound)})
    with pytest.raises(UserError, match=f"{flag}: expected a finite number"):  # before anything is measured
        run(_parser("verify").parse_args(["new", "--against=old", "--data=no.tsv", flag]))


KINDS = ("score", "speed-up", "bytes")


@pytest.mark.parametrize(
    ("claim", "true"),
    [
        (Claim("report.json", "score", 0.915), True),
        (Claim("report.json", "score", 0.93), False),
        (Claim("report.json", "score", 0.93, (0.915, 0.945)), True),  # on other texts, as its interval says
        (Claim("report.json", "score", 0.85), False),
        (Claim("report.json", "speed-up", 4.9), True),
        (Claim("report.json", "speed-up", 9.0), False),
        (Claim("report.json", "speed-up", 1.5), True),  # another machine gains less
        (Claim("report.json", "bytes", 5_040_000), True),
        (Claim("report.json", "bytes", 4_890_000), True),  # of the weights
        (Claim("report.json", "bytes", 4_200_000), True),  # of their file
        (Claim("report.json", "bytes", 3_000_000), False),
        *((Claim("report.json", what, float(no)), False) for what in KINDS for no in ("nan", "inf", "-inf")),
        (Claim("report.json", "score", 0.9, (float("nan"), float("nan"))), False),
        (Claim("report.json", "score", 0.9, (float("-inf"), float("inf"))), False),
    ],
)
def test_a_claim_that_the_measurement_contradicts_is_refused_by_name(claim: Claim, true: bool):
    failures = verdict(changed(new={"claims": (claim,)}), BOUNDS)
    assert (failures == []) == true
    assert true or only(failures).what.startswith("report.json claims")


def test_the_words_hold_the_numbers_and_every_failure_with_its_causes():
    bad = changed(new=WORSE | SLOW | {"answers": 1}, parity=Parity("b", 0.25, 0.01, 1.0), **SURE)
    text = "\n".join(lines(bad, verdict(bad, BOUNDS)))
    for part in ("80.00 (88.0..92.0)", "-10.00 points (-12.00 to -8.00)", "1.11 times as fast", "5.00 MB", "99.00%"):
        assert part in text
    assert "NEW and b in JAX: logits differ by at most 0.25; the same predictions for 100.00% of the texts" in text
    assert text.count("refused: ") == 2
    assert "  likely cause: NEW predicts the same for every text" in text
    claim = Claim("report.json", "score", 0.9)
    assert "NEW's own claims: score (report.json)" in list(lines(changed(new={"claims": (claim,)}), []))
    good, untaught = (list(lines(one, [])) for one in (GOOD, changed(old={"answers": 1})))
    assert good[-1].startswith("accepted: ")
    assert set(untaught) - set(good) == {
        "OLD predicts the same for every text, so that a score as high as OLD's proves nothing"
    }
