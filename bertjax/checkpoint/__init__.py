"""Training state on disk, written with Orbax, with a digest of every array.

Orbax writes a step to a temporary folder and renames it, so a killed run leaves no half-written step under a step's
name. But it keeps no checksum of the array bytes: a flipped bit would be read as a wrong weight without an error. So a
step folder holds two items. `state` has the arrays as nested dictionaries by path and can be opened with plain Orbax.
`record` is a JSON file with dtype, shape and digest of every leaf and the caller's `extra`.

Reading compares the arrays with the record, goes back to the newest intact step, and reports the damaged ones. The
price is one pass over the state at each save and restore.

    checkpoint.save(folder, step, {"params": params, "opt": opt}, extra={"position": 1024})
    step, state, extra, skipped = checkpoint.restore(folder, template)

`Checkpoints` is for training loops: it writes in the background and keeps the newest steps and the best one.
"""

from bertjax.checkpoint.folder import steps
from bertjax.checkpoint.run import Checkpoints, Restored, restore, save

__all__ = ["Checkpoints", "Restored", "restore", "save", "steps"]
