"""The quality of predictions: scores, their confidence intervals, and paired tests, in NumPy alone.

    scores.py        every metric, also as sums over examples
    spans.py         entities and SQuAD answers
    neighbours.py    how well embeddings order texts by similarity
    uncertainty.py   intervals and paired tests
    bound.py         the most aggressive of several settings that keeps a bound on the loss of score

An interval over examples tells how the score would vary on other examples of the same kind. It does not cover other
random seeds of the training; for that, train several times.
"""
