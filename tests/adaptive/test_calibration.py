"""Thresholds on answers that are made up, where what is right can be counted."""

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.adaptive import calibrate
from bertjax.adaptive.calibration import candidates
from bertjax.adaptive.confidence import HIGH_IS_SURE, LOW_IS_SURE
from bertjax.errors import UserError
from bertjax.model import Exits
from bertjax.model.depth import Rule
from tests.model.tiny import TINY

CONFIG = TINY.replace(num_hidden_layers=3, exits=Exits((0, 1)), labels=("no", "yes"))
N = 2000


def made_up(wrong_where_unsure: float):
    """The last layer is always right. An exit is right where it is sure, and else wrong with this probability."""
    rng = np.random.default_rng(0)
    gold, sure = rng.integers(0, 2, N), rng.random((2, N)) < [[0.3], [0.6]]
    wrong = ~sure & (rng.random((2, N)) < wrong_where_unsure)
    strength = np.where(sure, 6.0, 0.3) + rng.random((2, N)) * 0.1
    sign = np.where(gold ^ wrong, 1.0, -1.0)
    logits = np.stack([-sign * strength, sign * strength], axis=-1).astype(np.float32)
    return logits, np.eye(2, dtype=np.float32)[gold], gold, sure


@pytest.mark.parametrize("rule", ["entropy", "max_probability", "margin"])
def test_those_who_are_sure_leave_and_no_others(rule):
    exits, logits, gold, sure = made_up(wrong_where_unsure=0.5)
    found = calibrate(CONFIG, exits, logits, gold, metric="accuracy", bound=0.01, rule=rule)
    assert found.exit_rule is not None
    kept = next(one for one in found.tried if one.exit_rule == found.exit_rule)
    depth = np.where(sure[0], 1, np.where(sure[1], 2, 3)).mean()
    assert kept.mean_depth == pytest.approx(depth, abs=0.1)
    assert kept.loss_ci95[1] <= 0.01
    assert found.tried[-1].loss_ci95[1] > 0.01, "the search ends at the first failure"


@pytest.mark.parametrize(("rule", "confidence"), [*LOW_IS_SURE.items(), *HIGH_IS_SURE.items()])
def test_no_example_is_at_a_threshold(rule, confidence):
    rng = np.random.default_rng(0)
    exits = np.repeat(rng.normal(0, 1, (2, 20, 2)), 3, axis=1).astype(np.float32)  # three examples say the same
    said, tried = np.asarray(confidence(jnp.asarray(exits)), np.float64), candidates(CONFIG, rule, 0.0, exits)
    assert len(tried) > 20
    assert min(np.abs(said - exit_rule.threshold).min() for exit_rule in tried) > 1e-5
    assert not candidates(CONFIG, rule, 0.0, np.full_like(exits, np.nan))


def test_where_every_exit_loses_too_much_no_example_exits():
    exits, logits, gold, _ = made_up(wrong_where_unsure=0.5)
    shuffled = np.roll(exits, 1, axis=1)  # sure, and of another example
    assert calibrate(CONFIG, shuffled, logits, gold, metric="accuracy", bound=0.01).exit_rule is None


def test_exits_that_are_always_right_are_all_taken():
    exits, logits, gold, _ = made_up(wrong_where_unsure=0.0)
    found = calibrate(CONFIG, exits, logits, gold, metric="accuracy", bound=0.01)
    assert found.exit_rule is not None
    assert found.tried[-1].exit_rule == found.exit_rule
    assert found.tried[-1].mean_depth < 1.3


def test_patience_is_tried_from_much_to_little():
    exits, logits, gold, _ = made_up(wrong_where_unsure=0.0)
    found = calibrate(CONFIG, exits, logits, gold, metric="accuracy", bound=0.01, rule="patience")
    assert [one.exit_rule.threshold for one in found.tried] == [1.0]
    assert found.tried[0].mean_depth == 2.0


def test_patience_needs_a_second_exit_to_agree():
    one = CONFIG.replace(exits=Exits((1,)))
    with pytest.raises(UserError, match=r"rule=patience compares .* needs at least two exits; this model has one"):
        candidates(one, "patience", 0.0, np.zeros((1, 5, 2), np.float32))


def test_a_rule_that_says_nothing_of_numbers_is_refused():
    with pytest.raises(UserError, match="this model does regression; use rule=patience with a tolerance"):
        candidates(CONFIG.replace(labels=("score",)), "entropy", 0.0, np.zeros((2, 5, 1), np.float32))


def certified(n: int, bound: float, metric: str = "accuracy", right: bool = True, rule: Rule = "patience"):
    """Of n texts, all of which every exit answers as the last layer does; rightly, or all of them wrongly."""
    exits, logits, gold, _ = made_up(wrong_where_unsure=0.0)
    gold = gold[:n] if right else 1 - gold[:n]
    return calibrate(CONFIG, exits[:, :n], logits[:n], gold, metric=metric, bound=bound, rule=rule)


def test_texts_that_cannot_show_a_bound_certify_no_threshold_and_say_how_many_could():
    found = certified(10, bound=0.0)
    assert found.exit_rule is None
    assert "no number of texts can certify that nothing at all is lost" in found.why_none
    found = certified(10, bound=0.01, rule="entropy")
    assert found.exit_rule is None
    assert "10 held-out texts are too few to certify a loss of at most 0.01" in found.why_none
    assert "368 are needed" in found.why_none
    assert len(found.tried) > 5, "what each threshold costs is shown all the same"
    assert all(one.loss_ci95[1] > 0.3 for one in found.tried)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
@pytest.mark.parametrize("bound", [0.0, 0.02])
def test_no_metric_promises_what_twenty_texts_cannot_show(metric, bound):
    assert certified(20, bound, metric).exit_rule is None
    assert certified(20, bound, metric, right=False).exit_rule is None


def test_the_least_texts_that_can_show_a_bound_do():
    assert certified(367, 0.01).exit_rule is None
    found = certified(368, 0.01)
    assert found.exit_rule is not None
    assert (found.why_none, found.tried[-1].exit_rule) == ("", found.exit_rule)


def test_a_threshold_behind_one_that_failed_is_not_promised():
    """The exits are wrong where they are surest, so the most careful rule fails first; bolder ones may pass by luck."""
    exits, logits, gold, sure = made_up(wrong_where_unsure=0.0)
    exits = np.where(sure[..., None] & (np.arange(N) % 3 == 0)[:, None], -exits, exits)
    found = calibrate(CONFIG, exits, logits, gold, metric="accuracy", bound=0.005)
    assert found.exit_rule is None
    assert "2000 held-out texts cannot rule out a loss of" in found.why_none


@pytest.mark.slow
def test_a_promise_of_calibration_is_broken_in_one_of_forty_at_most():
    """Both exits lose 2 points in truth, and a little less is to be promised: 80 draws of 400 texts."""
    broken, logits = 0, np.tile(np.array([0, 1], np.float32), (400, 1))
    for seed in range(80):
        wrong = np.random.default_rng(seed).random((1, 400, 1)) < 0.02
        exits = np.where(wrong, logits[:, ::-1], logits).repeat(2, axis=0)
        gold = np.ones(400, int)
        found = calibrate(CONFIG, exits, logits, gold, metric="accuracy", bound=0.0199, rule="patience")
        broken += found.exit_rule is not None
    assert broken <= 5  # 2.5 % of 80, and 2 standard errors
