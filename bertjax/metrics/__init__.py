"""How good predictions are: scores, their intervals, and paired tests, in NumPy alone.

    scores.py        every metric behind one door, and as sums over examples
    spans.py         entities and SQuAD answers
    uncertainty.py   intervals and paired tests

The trade-off: an interval over examples says how the score would move on other examples of the kind, not on another
seed of the training; for that, train again.
"""
