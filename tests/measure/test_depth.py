"""Who is timed when, where ways of one runtime take turns."""

import numpy as np

from bertjax.measure.depth import time_executors


def test_ways_take_turns_one_right_after_the_other():
    ran: list[tuple[str, int]] = []
    one, other = (np.ones((rows, 4), np.int32) for rows in (1, 3))
    alone, both = [(one, one, one)], [(one, one, one), (other, other, other)]

    def way(name):
        return lambda batches: ran.append((name, sum(len(ids) for ids, _, _ in batches)))

    found = time_executors({"a": way("a"), "b": way("b")}, {"alone": [alone], "both": [both, alone]}, repeats=3)
    in_order = [("a", 1), ("b", 1), ("a", 4), ("a", 1), ("b", 4), ("b", 1)]
    swapped = [("b", 1), ("a", 1), ("b", 4), ("b", 1), ("a", 4), ("a", 1)]
    assert sorted(ran[:6]) == sorted(in_order)  # compiled
    assert ran[6:] == [*in_order, *swapped, *in_order]
    assert {name: {kind: ms.shape for kind, ms in kinds.items()} for name, kinds in found.items()} == {
        name: {"alone": (3,), "both": (3,)} for name in "ab"
    }
    assert all((ms > 0).all() for kinds in found.values() for ms in kinds.values())
