"""Processes that take turns: what is measured, what they say, and how they fail."""

import os

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.measure import latency
from bertjax.measure.latency import Candidate, measure_latency
from bertjax.measure.worker import Session

TEXTS = ["one", "one two three", "one two three four five"]


def runtime(name, pace=1.0):
    return Candidate(f"tests.measure.runtimes:{name}", f"/{pace}")


@pytest.mark.slow
def test_times_follow_the_work_with_and_without_tokenisation():
    heard = []
    timings = measure_latency({"slow": runtime("Sleeper", 4), "quick": runtime("Sleeper")}, TEXTS, notify=heard.append)
    slow, quick = timings["slow"], timings["quick"]
    assert slow.latency.batch_1.p50 > 1.5 * quick.latency.batch_1.p50
    for timing in (slow, quick):
        assert timing.latency.end_to_end.p50 > timing.latency.batch_1.p50
        assert timing.latency.batch_1.p95 > timing.latency.batch_1.p50
    assert (slow.runtime, slow.device, slow.versions["texts"]) == ("sleeper", "a bed", "3")
    assert slow.threads == len(os.sched_getaffinity(0))
    repeats = [message.split(",")[0] for message in heard if "repeat" in message]
    assert repeats == [f"timing {name}" for name in ("slow", "quick", "quick", "slow", "slow", "quick")]  # turning


def test_report_is_the_median_of_the_repeats():
    def answer(*times):
        return {"batch_1": list(times), "end_to_end": list(times), "batch_32_per_s": times[0]}

    about = {"runtime": "x", "device": "y", "threads": 1, "versions": {}}
    timing = latency._timing(about, [answer(1.0, 2.0, 3.0), answer(9.0, 9.0, 90.0), answer(4.0, 5.0, 6.0)])
    assert timing.latency.batch_1.p50 == 5
    assert timing.latency.batch_1.p95 == pytest.approx(5.9)
    assert timing.throughput_per_s == 4


def test_every_text_is_timed_at_its_real_length_and_batches_hold_32():
    seen = []

    class Recorder:
        name, device, versions = "recorder", "here", {}

        def encode(self, texts, pairs):
            return list(zip(texts, pairs, strict=True))

        def forward(self, inputs):
            seen.append(inputs)

    session = Session()
    session.runtime, session.texts, session.pairs = Recorder(), TEXTS, ["a", "b", "c"]
    answer = session.measure()
    assert len(answer["batch_1"]) == len(answer["end_to_end"]) == 3
    single = [inputs[0] for inputs in seen if len(inputs) == 1]
    assert set(single) == set(zip(TEXTS, "abc", strict=True))
    assert {len(inputs) for inputs in seen} == {1, 32}
    lengths = [len(text) for text, _ in seen[-1]]
    session.texts, session.pairs = [str(10**i) for i in range(70)], None
    batches = session._many()
    assert [len(texts) for texts, _ in batches] == [32, 32]
    assert max(map(len, batches[0][0])) < min(map(len, batches[1][0]))
    assert len(lengths) == 32


def test_sample_and_threads_are_what_was_asked_for():
    one = runtime("Sleeper", 0)
    timing = measure_latency({"x": one}, [str(i) for i in range(50)], sample=7, threads=1, max_length=9)["x"]
    assert (timing.threads, timing.versions["texts"], timing.versions["max_length"]) == (1, "7", "9")
    assert len(os.sched_getaffinity(0)) > 1 or os.cpu_count() == 1  # ours are as before


def test_a_process_that_dies_is_quoted():
    with pytest.raises(RuntimeError, match=r"ran broken ended with code 11.*\n(.*\n)*terrible things happened in C"):
        measure_latency({"good": runtime("Sleeper"), "broken": runtime("Crashing")}, TEXTS)


@pytest.mark.slow
def test_a_process_that_hangs_is_ended():
    with pytest.raises(RuntimeError, match="no answer in 3 s"):
        measure_latency({"x": runtime("Hanging")}, TEXTS, timeout_s=3.0)


def test_a_process_that_spins_while_it_waits_is_named():
    with pytest.warns(UserWarning, match="restless used .* of a processor while others were timed"):
        measure_latency({"restless": runtime("Restless")}, TEXTS)


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (Candidate("jax", "/nowhere"), "x cannot be measured: no model folder"),
        (Candidate("tpu", "/"), "Unknown runtime 'tpu'"),
    ],
)
@pytest.mark.parametrize("isolated", [True, False])
def test_mistakes_of_the_user_come_back_as_such(candidate, says, isolated):
    with pytest.raises(UserError, match=says if isolated else says.removeprefix("x cannot be measured: ")):
        measure_latency({"x": candidate}, TEXTS, isolated=isolated)


def test_fewer_than_three_repeats_and_no_texts_are_refused():
    with pytest.raises(UserError, match=r"given: \d+ texts and 2 repeats"):
        measure_latency({"x": runtime("Sleeper")}, TEXTS, repeats=2)
    with pytest.raises(UserError, match="given: 0 texts"):
        measure_latency({"x": runtime("Sleeper")}, [])


@pytest.mark.slow
def test_one_process_does_where_the_device_allows_no_more():
    timing = measure_latency({"x": runtime("Sleeper")}, TEXTS, isolated=False)["x"]
    assert np.isfinite(timing.throughput_per_s)
    assert timing.runtime == "sleeper"
