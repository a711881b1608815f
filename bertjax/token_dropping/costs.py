"""The arithmetic of a text by its length and by how many of its tokens go on after each layer.

Multiplications and additions of the matrix products, from the sizes in the config. Embeddings, softmax, LayerNorm and
the head are left out: they are a few percent, and the ranking of tokens is less than one. Numbers of tokens may be
fractions, and traced, so that an expected cost can be a term of a loss.
"""

from dataclasses import dataclass
from typing import Any

from bertjax.model import BertConfig
from bertjax.model.retention import After, Retention


def text_flops(
    config: BertConfig, lengths: Any, kept: Any, after: After = "attention", reads_first: bool = True
) -> Any:
    """FLOPs of the encoder's matrix products for texts of these lengths.

    Args:
      lengths: Tokens of each text [n].
      kept: Tokens that go on after each depth step [depth, n].
      after: Where in a step the others are dropped.
      reads_first: Whether the head reads [CLS] alone. The last layer then computes keys and values for all tokens and
        the rest for one.
    """
    total: Any = 0.0
    here = lengths
    for number, step in enumerate(config.depth_steps()):
        width, last = step.num_attention_heads * config.head_size, number == config.depth - 1
        queries = lengths * 0 + 1 if reads_first and last else here
        rows = kept[number] if after == "attention" and not (reads_first and last) else queries
        attention = 4 * config.inner_size * width * (queries + here) + 4 * width * queries * here
        total = total + attention + 4 * config.inner_size * step.intermediate_size * rows
        here = kept[number]
    return total


def mean_flops(config: BertConfig, lengths: Any, retention: Retention | None, reads_first: bool = True) -> float:
    """The mean over texts of these lengths; without a retention, that of the whole model."""
    import numpy as np

    lengths = np.asarray(lengths)
    if retention is None:
        return float(text_flops(config, lengths, np.tile(lengths, (config.depth, 1)), "layer", reads_first).mean())
    longest = int(lengths.max())
    kept = np.array([retention.counts(step, longest) for step in range(config.depth)])[:, lengths]
    return float(text_flops(config, lengths, kept, retention.after, reads_first).mean())


@dataclass(frozen=True)
class TokensLeft:
    """What token dropping leaves of a model's arithmetic, at the real lengths of some texts."""

    mean_tokens: tuple[float, ...]
    """Tokens of a text that go on after each depth step, averaged over the texts."""
    flops_left: float
    """The FLOPs of the encoder's matrix products as a fraction of those of the same model with all tokens."""

    def __str__(self) -> str:
        return f"mean tokens after each layer {self.tokens_text}; {self.flops_text} of the FLOPs left at real lengths"

    @property
    def tokens_text(self) -> str:
        return ", ".join(f"{one:.1f}" for one in self.mean_tokens)

    @property
    def flops_text(self) -> str:
        return f"{100 * self.flops_left:.0f} %"

    @property
    def numbers(self) -> dict[str, float]:
        """By name, for the result of a run."""
        after = {f"mean tokens after layer {number}": one for number, one in enumerate(self.mean_tokens)}
        return {"FLOPs left": self.flops_left, **after}


def tokens_left(config: BertConfig, lengths: Any) -> TokensLeft | None:
    """What token dropping leaves at these lengths [n]. None for a model that keeps all tokens, or in which thresholds
    decide: see `bertjax.token_dropping.counts`."""
    import numpy as np

    if config.retention is None or any(config.retention.thresholds):
        return None
    lengths = np.asarray(lengths)
    counts = [config.retention.counts(step, int(lengths.max())) for step in range(config.depth)]
    return left_of(config, lengths, np.array(counts)[:, lengths])


def left_of(config: BertConfig, lengths: Any, kept: Any) -> TokensLeft:
    """What is left where so many tokens of each text go on after each depth step, `kept` [depth, n]."""
    from bertjax.model import build

    assert config.retention is not None
    first = build(config).reads_first
    left = float(text_flops(config, lengths, kept, config.retention.after, first).mean())
    return TokensLeft(tuple(kept.mean(axis=1).tolist()), left / mean_flops(config, lengths, None, first))
