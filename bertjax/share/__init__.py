"""Conversions of a trained model to one with fewer parameters: cross-layer sharing, embedding factorisation, vocabulary
pruning.

Successive layers of a trained BERT compute similar things, most tokens of its vocabulary never occur in the text of one
task, and its embedding table has a low effective rank. Each conversion is `(config, params) -> (config, params)`, once,
outside jit. Its docstring states what it preserves exactly; distillation from the original model recovers the rest.

    tying.py       layers that share parameters (ALBERT, Lan et al. 2020), untying, and recurrence over one layer
    merging.py     how the layers of a group are merged: their mean, the first, or a least-squares fit
    factorise.py   the word embedding table as a product of two matrices
    vocabulary.py  a vocabulary of the tokens that a corpus uses, with its tokenizer

The trade-off: sharing saves memory, storage and optimiser state, but no arithmetic, because every depth step is still
computed. A single sentence may be a little faster, because fewer weights are read from memory.
"""

from bertjax.share.factorise import factorise_words
from bertjax.share.merging import LeastSquares, first, mean
from bertjax.share.tying import recur, tie, untie
from bertjax.share.vocabulary import prune_vocabulary

__all__ = ["LeastSquares", "factorise_words", "first", "mean", "prune_vocabulary", "recur", "tie", "untie"]
