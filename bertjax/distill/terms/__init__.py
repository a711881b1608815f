"""The distillation losses as they appear in configs: a weight, settings, and a method that builds the formula.

    answers.py       losses on the final outputs: labels and the teacher's probabilities
    states.py        losses on layer outputs: hidden states, feature maps, [CLS] states
    masked_words.py  the teacher's probabilities of masked tokens, for students trained on raw text
    attention.py     losses on relations between tokens: attention scores, attention maps, relations, rankings
    layers.py        what they have in common

Every loss is a `bertjax.learn.Loss`. `needs` declares which teacher outputs it reads besides the logits, as pairs
("hidden_states", index), ("queries", layer) and so on; these can be computed once and stored. Where it returns None,
the teacher runs in every step. Nothing here imports jax before `build`, so that config files load fast.

A weight is meaningful only with the reduction that it was chosen for. Here every term is a mean over tokens or
examples, and over layers, heads and widths. `preset` selects the reduction of a paper's formula ("paper") or of its
authors' published code ("official"), so that published weights can be used unchanged. A mean over tokens weighs an
example by its length. The formulas of TinyBERT (eq. 7-8), MobileBERT (eq. 1-2) and MiniLM (eq. 5 and 7; v2: 3-5) divide
by the length of each text, so "paper" weighs examples equally. Where lengths differ much, the two differ by up to a
tenth. PKD's [CLS] states and sentence-level outputs exist once per example anyway. DistilBERT's paper does not specify
it, and its code takes the mean over tokens, as LastHiddenState and MLMSoftTargets do.
"""

from bertjax.distill.terms.answers import HardLabels, SoftTargets
from bertjax.distill.terms.attention import AttentionMaps, AttentionScores, Relations, TokenRanking
from bertjax.distill.terms.embeddings import Embeddings, InBatchNegatives, Similarities
from bertjax.distill.terms.layers import Preset
from bertjax.distill.terms.masked_words import MLMSoftTargets
from bertjax.distill.terms.states import FeatureMaps, HiddenStates, LastHiddenState, MatchedStates, PatientStates
from bertjax.learn.loss import Loss, LossFunction

__all__ = [
    "AttentionMaps",
    "AttentionScores",
    "Embeddings",
    "FeatureMaps",
    "HardLabels",
    "HiddenStates",
    "InBatchNegatives",
    "LastHiddenState",
    "Loss",
    "LossFunction",
    "MLMSoftTargets",
    "MatchedStates",
    "PatientStates",
    "Preset",
    "Relations",
    "Similarities",
    "SoftTargets",
    "TokenRanking",
]
