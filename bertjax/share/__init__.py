"""One set of weights used many times.

Successive layers of a trained BERT do similar things, most words of its vocabulary never occur in the text at hand, and
its embedding table has fewer directions than columns. So a model that exists can be written with fewer numbers: layers
tied (ALBERT, Lan et al. 2020), the table factorised, tokens left out. Each conversion is `(config, params) -> (config,
params)`, once, outside jit, and says what it preserves; what it loses, distillation from the model before wins back.

    tying.py       layers that share their parameters, layers that no longer do, and one that is applied repeatedly
    merging.py     what several layers become when they turn into one: their mean, the first, a least-squares fit
    factorise.py   a word table as the product of two narrow ones
    vocabulary.py  the tokens that a corpus uses, and the tokenizer that knows no others

The trade-off: sharing saves memory, storage and optimiser state. It saves no arithmetic, because every depth step still
computes what it did; a single sentence may be a little faster, because fewer weights have to be fetched.
"""

from bertjax.share.factorise import factorise_words
from bertjax.share.merging import LeastSquares, first, mean
from bertjax.share.tying import recur, tie, untie
from bertjax.share.vocabulary import prune_vocabulary

__all__ = ["LeastSquares", "factorise_words", "first", "mean", "prune_vocabulary", "recur", "tie", "untie"]
