"""The distillation losses as configs hold them: a name and numbers, and one method that builds the formula.

    answers.py     what a model says: labels and the teacher's probabilities
    states.py      what its layers make of a text: hidden states, feature maps, first rows
    words.py       the teacher's probabilities of hidden words, for students of raw text
    attention.py   how the tokens of a text relate: scores, maps, relations
    term.py        what they have in common

`needs` tells what of the teacher a loss looks at besides its logits, as pairs ("hidden_states", place), ("queries",
layer) and so on; such outputs can be computed once and stored. A loss without that method, or that answers None, gets a
teacher that runs in every step. Nothing here imports jax before it builds, so that a config file costs nothing to read.

A weight means what it says only with the reduction that it was chosen for. Here every term is a mean: over tokens or
texts, and over layers, heads and widths. `preset` is what a paper's formula ("paper") or its authors' published code
("official") has instead, so that their weights can be used as they were printed. A mean over tokens weighs a text by
its length; the formulas of TinyBERT (eq. 7-8), MobileBERT (eq. 1-2) and MiniLM (eq. 5 and 7; v2: 3-5) divide by the
length of each text, so that "paper" weighs texts alike. Where lengths differ much the two are up to a tenth apart.
PKD's first rows and the answers of a text are one for each text anyway; DistilBERT's paper does not say, and its
code takes the mean over tokens, as LastHiddenState and SoftWords do.
"""

from bertjax.distill.terms.answers import HardLabels, SoftTargets
from bertjax.distill.terms.attention import AttentionMaps, AttentionScores, Relations
from bertjax.distill.terms.layers import Preset
from bertjax.distill.terms.masked_words import MLMSoftTargets
from bertjax.distill.terms.states import FeatureMaps, HiddenStates, LastHiddenState, PatientStates
from bertjax.learn.loss import Loss, LossFunction

__all__ = [
    "AttentionMaps",
    "AttentionScores",
    "FeatureMaps",
    "HardLabels",
    "HiddenStates",
    "LastHiddenState",
    "Loss",
    "LossFunction",
    "MLMSoftTargets",
    "PatientStates",
    "Preset",
    "Relations",
    "SoftTargets",
]
