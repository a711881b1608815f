"""Training state on disk: Orbax in one place, with a digest of every array.

Orbax writes a step to a temporary folder and renames it, so a killed run leaves no half step under a step's name. But
it keeps no checksum of array bytes: a flipped bit comes back as a wrong weight and no error. So a step folder holds two
items: `state`, the arrays as nested dictionaries by path, which plain Orbax opens, and `record`, a JSON file with
dtype, shape and digest of every leaf and the caller's `extra`. Reading compares it all, walks back to the newest step
that is whole, and says which were not. The price is one pass over the state at each save and restore.

    checkpoint.save(folder, step, {"params": params, "opt": opt}, extra={"position": 1024})
    step, state, extra, skipped = checkpoint.restore(folder, template)

`Checkpoints` is for training loops: it writes in the background and keeps the newest steps and the best.
"""

from bertjax.checkpoint.folder import steps
from bertjax.checkpoint.run import Checkpoints, Restored, restore, save

__all__ = ["Checkpoints", "Restored", "restore", "save", "steps"]
