"""Token dropping: after each layer a text goes on with fewer of its tokens, so later layers have less to compute.

    costs.py               the arithmetic of a text by its length and by how many of its tokens go on
    counts.py              how many tokens go on where thresholds decide, by running the model
    soft_extraction.py     a learned factor for each rank decides how many go on (PoWER-BERT)
    length_drop.py         training with random numbers of tokens, for a model that works with any (Length-Adaptive
                           Transformer)
    learned_thresholds.py  thresholds of attention, trained with the model (Learned Token Pruning)
    rank_gates.py          gates on relative ranks, trained until the arithmetic meets a target (ToP)
    search.py              the shares of tokens that change a model's predictions least within a budget, or within each
                           of a ladder of budgets

What goes on is decided by attention: [CLS], and the tokens that the text attends to most. How many go on is a share of
the text's own length for each layer, `Retention` in the config; with learned thresholds it depends on the text too. The
methods differ in how they find the shares, and in whether the model is trained for them.

The gain: long texts have many tokens that a classifier can do without, and the arithmetic that is saved is also time,
at any batch size. The cost: a text of 20 tokens has little to drop, and after half of the layers little is left to
save. Published multiples count the removal of padding as well; here every comparison is with the same model on texts
without padding. A model that drops tokens cannot be trained on packed rows, and with other attention kernels than the
plain one not at all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bertjax.token_dropping.learned_thresholds import LearnedThresholds
from bertjax.token_dropping.length_drop import LengthDrop
from bertjax.token_dropping.rank_gates import RankGates
from bertjax.token_dropping.soft_extraction import SoftExtraction

if TYPE_CHECKING:
    from bertjax.token_dropping.costs import text_flops
    from bertjax.token_dropping.search import search

__all__ = ["LearnedThresholds", "LengthDrop", "RankGates", "SoftExtraction", "search", "text_flops"]

_HOMES = {"search": "search", "text_flops": "costs"}


def __getattr__(name: str) -> Any:
    """As in `bertjax.model`: modules that import jax are imported at first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bertjax.token_dropping' has no attribute {name!r}")
    return getattr(import_module(f"bertjax.token_dropping.{_HOMES[name]}"), name)
