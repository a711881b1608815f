"""Arrays that fit the tokens that are left: the same answers as in arrays of one size."""

from typing import Any

import jax
import numpy as np
import pytest

from bertjax.adaptive.token_counts import SIZES, TokenCountExecutor, size_for
from bertjax.model import Retention
from bertjax.predict import runner
from tests.adaptive.test_executors import inputs
from tests.model.test_tokens import THRESHOLDS, batch_of, dropping, run
from tests.tolerances import OTHER_FRAMEWORK


@pytest.mark.parametrize("thresholds", [THRESHOLDS, Retention((1.0,) * 4, thresholds=(0.06, 0.0, 0.2, 0.0))])
def test_the_answers_are_those_of_arrays_of_one_size(thresholds):
    model, params = dropping(thresholds)
    executor, sizes = TokenCountExecutor(model, params), set()
    for seed in range(3):
        batch = batch_of(seed=seed)
        [found] = executor([inputs(batch)])
        np.testing.assert_allclose(found, run(model, params, batch).logits, **OTHER_FRAMEWORK)
        [alone] = executor([tuple(array[:1] for array in inputs(batch))])
        np.testing.assert_allclose(alone, found[:1], **OTHER_FRAMEWORK)
        sizes |= {layers.size for layers in executor.programs if layers.start}
    assert min(sizes) < 24, "no array became smaller"


def test_predictions_of_a_model_with_thresholds_come_from_the_executor():
    model, params = dropping(THRESHOLDS)
    [output] = runner(model, params)([inputs(batch_of())])
    [expected] = TokenCountExecutor(model, params)([inputs(batch_of())])
    np.testing.assert_array_equal(output.logits, expected)
    assert output.depths is None


def test_a_size_holds_the_tokens_and_there_are_few_of_them():
    for length in (1, 5, 24, 100, 512):
        sizes = [size_for(tokens, length) for tokens in range(length + 1)]
        assert all(tokens <= size <= length for tokens, size in enumerate(sizes))
        assert len(set(sizes)) <= SIZES
        assert sizes == sorted(sizes)


@pytest.mark.slow
def test_no_program_is_compiled_once_all_sizes_were_seen():
    model, params = dropping(THRESHOLDS)
    executor, compiled = TokenCountExecutor(model, params), []
    batches: Any = [inputs(batch_of(seed=seed)) for seed in range(4)]
    first = list(executor(batches))
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **kwargs: (
            compiled.append(event) if event.endswith("backend_compile_duration") else None
        )
    )
    again = list(executor(batches[::-1]))
    assert compiled == []
    np.testing.assert_array_equal(again[::-1], first)
    list(executor([inputs(batch_of((5, 3), columns=7))]))
    assert compiled, "the listener hears nothing: this test could not fail"
