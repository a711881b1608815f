"""Early exit: an example stops at the first exit whose prediction is confident enough, and skips the layers above it.
And arrays whose size follows the tokens that an example has left.

    confidence.py    how confident a prediction is: logits in, one number per example out
    policies.py      when an example exits, from its predictions so far
    exits.py         heads added to a trained model, and removed again
    segments.py      a model as a sequence of segments, after each of which examples may exit
    executors.py     how the model is run: all layers for all examples, a loop, or segments with the remaining examples
    calibration.py   the threshold, from held-out text
    token_counts.py  models that drop tokens by a threshold, in arrays that fit what is left

A policy does not depend on the executor. Every executor gives each example the exit and the logits of a full run whose
exits are picked afterwards, whatever else is in the batch. An example within float32 rounding of a threshold may fall
on either side.

The gain: easy examples skip layers. A loop skips them only when no example of the batch needs them, so it is for single
examples. Segments run the remaining examples of several batches together, so a long list of texts gains more than a
single batch, but the first prediction comes when all texts have been processed. Programs are compiled once, for a few
batch sizes. The cost: the heads, and one transfer of flags per exit. A hard example takes as long as before.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjax.adaptive.calibration import calibrate
    from bertjax.adaptive.executors import EarlyExitExecutor, ExitOutput, SegmentExecutor, full, looped
    from bertjax.adaptive.exits import add_exits, forget_threshold, remove_exits
    from bertjax.adaptive.policies import Confidence, Patience, Policy, policy_of
    from bertjax.adaptive.segments import SegmentedModel, segmented_model
    from bertjax.adaptive.token_counts import TokenCountExecutor

__all__ = [
    "Confidence",
    "EarlyExitExecutor",
    "ExitOutput",
    "Patience",
    "Policy",
    "SegmentExecutor",
    "SegmentedModel",
    "TokenCountExecutor",
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
    """As in `bertjax.model`: modules that import jax are imported at first use."""
    modules = "segments", "executors", "policies", "exits", "calibration", "token_counts"
    for module in modules if name in __all__ else ():
        if hasattr(found := import_module(f"bertjax.adaptive.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module 'bertjax.adaptive' has no attribute {name!r}")
