"""How much has to go for a speed, with a clock that is made up."""

import numpy as np
import pytest

from bertjax import UserError
from bertjax.prune.select import STEPS, search_speedup, select_top


@pytest.mark.parametrize("multiple", [1, 8, 64, 128])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.99])
def test_what_stays_is_a_multiple_and_never_less_than_asked(multiple: int, part: float):
    rng = np.random.default_rng(0)
    scores = {group: rng.random(size) * (1 + group) for group, size in enumerate((512, 300, 64, 5))}
    asked = round(part * sum(map(len, scores.values())))
    kept = select_top(scores, asked, multiple=multiple)
    assert 0 <= sum(len(scores[group]) - len(kept[group]) for group in scores) <= asked
    for group, one in scores.items():
        assert len(kept[group]) in (len(one), *range(multiple, len(one), multiple))
        assert one[kept[group]].min() >= np.delete(one, kept[group]).max(initial=0)


class Clock:
    """As fast as `speed` says of a fraction, times the next of `noise`; remembers what it was asked."""

    def __init__(self, speed, noise=()):
        self.speed, self.noise, self.asked = speed, list(noise), []

    def __call__(self, fraction: float) -> float:
        self.asked.append(fraction)
        return self.speed(fraction) * (self.noise.pop(0) if self.noise else 1.0)


@pytest.mark.parametrize("wanted", [1.01, 1.5, 2.0, 3.2, 8.0])
def test_no_smaller_part_is_enough(wanted: float):
    clock = Clock(lambda fraction: 1 / (1 - 0.9 * fraction))
    fraction, reached = search_speedup(clock, wanted)
    assert reached == clock.speed(fraction) >= wanted > clock.speed(fraction - 1 / STEPS)
    assert len(clock.asked) <= 7


def test_a_lucky_measurement_is_measured_again_and_more_goes():
    clock = Clock(lambda fraction: 1 + 3 * fraction, [1, 1, 1.2, 1, 1, 1, 1])
    fraction, reached = search_speedup(clock, 2.0)  # of a quarter it said 2.1 once, and then 1.75
    assert (fraction, reached) == (11 / STEPS, clock.speed(11 / STEPS))
    assert clock.asked[2] == 0.25


def test_what_no_removal_reaches_is_said_with_what_one_does():
    with pytest.raises(UserError, match=r"5 times as fast was requested; with all .* it is 4.00 times as fast"):
        search_speedup(Clock(lambda fraction: 1 + 3 * fraction), 5.0)
