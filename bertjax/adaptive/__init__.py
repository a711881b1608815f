"""Less work for easy inputs: an example leaves the encoder where its answer is sure.

    confidence.py    how sure an answer is: arrays in, one number per example out
    policies.py      when an example leaves, from the answers it got so far
    exits.py         heads put into a trained model, and taken out again
    segments.py      a model as a sequence of segments, behind each of which examples may exit
    executors.py     how it is run: all layers for all examples, a loop, or segments with the remaining examples
    calibration.py   which threshold, from text that was held out

A policy knows nothing of who executes it. Every executor gives each example the exit, and the logits, that running all
layers and looking afterwards would have given it, whatever else is in the batch; an example within float32 rounding of
a threshold may fall on either side.

What it gains: a loop saves whole steps, but only when nobody in the batch needs them, so it is for single examples.
Segments go on with the survivors: those of several batches fill one up again, so a long list of texts gains more than a
single batch, and its first answer comes when all have been read. Programs are compiled once, for a few batch sizes.
What it costs: the heads, and one look at the flags per exit.
What is saved is arithmetic of easy examples; a hard one takes as long as before.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjax.adaptive.calibration import calibrate
    from bertjax.adaptive.executors import EarlyExitExecutor, ExitOutput, SegmentExecutor, full, looped
    from bertjax.adaptive.exits import add_exits, forget_threshold, remove_exits
    from bertjax.adaptive.policies import Confidence, Patience, Policy, policy_of
    from bertjax.adaptive.segments import SegmentedModel, segmented_model

_HOMES = {
    "calibrate": "calibration",
    "ExitOutput": "executors",
    "SegmentExecutor": "executors",
    "full": "executors",
    "looped": "executors",
    "add_exits": "exits",
    "forget_threshold": "exits",
    "remove_exits": "exits",
    "Confidence": "policies",
    "Patience": "policies",
    "Policy": "policies",
    "policy_of": "policies",
    "SegmentedModel": "segments",
    "EarlyExitExecutor": "executors",
    "segmented_model": "segments",
}

__all__ = [
    "Confidence",
    "EarlyExitExecutor",
    "ExitOutput",
    "Patience",
    "Policy",
    "SegmentExecutor",
    "SegmentedModel",
    "add_exits",
    "calibrate",
    "forget_threshold",
    "full",
    "looped",
    "policy_of",
    "remove_exits",
    "segmented_model",
]


def __getattr__(name: str) -> Any:
    """As in `bertjax.model`: who asks for numbers alone imports no jax."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bertjax.adaptive' has no attribute {name!r}")
    return getattr(import_module(f"bertjax.adaptive.{_HOMES[name]}"), name)
