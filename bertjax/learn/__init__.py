"""One training step, assembled from parts.

    loss.py         the contract of a loss and of a penalty: the terms of what is learned
    transform.py    the contract of a transform: what changes the student inside the step
    losses.py       the formulas of supervised losses, one per kind of task
    task_losses.py  losses without a teacher: masked tokens, sentence pairs, the cost of a recurrence's steps
    assemble.py     losses, teachers, transforms and penalties put together, checked and given their parameters
    objective.py    what they do in one update; the only place that calls the model
    phases.py       runs that begin with steps of another kind
    step.py         one update, compiled once per batch shape

A part is a frozen dataclass. Write your own in a config file: subclass `Loss`, `Penalty` or `Transform`.
"""

from bertjax.learn.loss import Loss, Penalty
from bertjax.learn.transform import Forward, Frozen, Transform, Update

__all__ = ["Forward", "Frozen", "Loss", "Penalty", "Transform", "Update"]
