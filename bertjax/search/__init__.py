"""The search for the smallest and fastest model within bounds.

    front.py   formulas: which trials go on, the Pareto front, how many steps fit a time
    space.py   what a trial is, the grid of all of them, and how one is cut out of the teacher
    costs.py   its predicted milliseconds and bytes, before it exists

A trial is a shape (layers, heads, neurons, hidden columns, width of the word table), which is trained, and a form in
which it is stored (words, bits), which costs no training. All shapes are cut out of the teacher, with the second-order
correction of what remains, because a student that begins so is ahead of every other kind. Many are trained for few
steps, and the best of them go on from their own weights (successive halving, Jamieson & Talwalkar 2016).

The trade-off: a score after few steps is a prediction too. A shape that learns slowly is lost early, in exchange for
many more shapes than would fit the same time if each were trained to the end.
"""
