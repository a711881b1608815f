"""How good predictions are: scores, their intervals, and paired tests, in NumPy alone.

    scores.py        every metric, also as sums over examples
    spans.py         entities and SQuAD answers
    uncertainty.py   intervals and paired tests

An interval over examples says how the score would vary on other examples of the same kind, not with another seed; for
that, train again.
"""
