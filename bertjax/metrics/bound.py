"""The most aggressive of several settings whose loss of score is certified to be within a bound, from held-out text.

Certified means: the score with the setting is at most `bound` below that of the full model. Settings are tried from the
most conservative to the most aggressive. The search ends at the first whose paired 95 % interval of the loss reaches
above `bound`. Testing in a fixed order and stopping at the first failure keeps the result from being the best of many
tries (Angelopoulos et al. 2021, "Learn then Test"). A setting whose score is merely good enough on this text would
break the bound about every second time. For accuracy at most 2.5 % of all searches break it, which the upper end of the
interval guarantees (`bertjax.metrics.uncertainty`); for other scores about as many. Few texts certify little: where all
of n predictions agree, 3.7 / n of other predictions may still be lost, so no number of texts certifies a bound of 0.

The text must not have been trained on, because a model is too confident there. And the result must be reported on other
text.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

from bertjax.metrics.uncertainty import examples_needed


@runtime_checkable
class Tried(Protocol):
    """The result of one setting on the held-out text."""

    @property
    def loss_ci95(self) -> tuple[float, float]:
        """Of the full model's score minus the score with this setting."""
        ...


Setting = TypeVar("Setting", bound=Tried)


def in_order(settings: Iterable[Setting], bound: float) -> tuple[Setting | None, tuple[Setting, ...]]:
    """The last setting before the first that breaks the bound, and all settings up to the first that does; every
    setting if the first one breaks it. `settings` is read no further, so that each may be measured when it is its
    turn."""
    certified, failed, tried = None, False, []
    for one in settings:
        tried.append(one)
        failed = failed or one.loss_ci95[1] > bound
        if failed and certified is not None:
            break
        certified = certified if failed else one
    return certified, tuple(tried)


def why_none(first: Tried, bound: float, texts: int, most_conservative: str) -> str:
    """Why no setting is certified, in a sentence. `first` is the most conservative one, which the sentence calls
    `most_conservative`."""
    if bound == 0:
        return "no number of texts can certify that nothing at all is lost; give a --bound above 0"
    if texts < (needed := examples_needed(bound)):
        return (
            f"{texts} held-out texts are too few to certify a loss of at most {bound}: even if all predictions agree "
            f"with the full model's, {needed} are needed; give more texts, or a larger --bound"
        )
    return (
        f"even with {most_conservative}, {texts} held-out texts cannot rule out a loss of {first.loss_ci95[1]:.4f}, "
        f"which exceeds the bound of {bound}; give more texts, or a larger --bound"
    )
