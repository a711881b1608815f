"""What every stage of a compression is: a recipe with a name, and the job that does it.

Recipes are data. The work is in `bertjax.jobs`, which imports jax, so a recipe names its job and imports it when it
runs.
"""

from importlib import import_module
from typing import ClassVar, NamedTuple

from bertjax.recipes.data import Data


class Context(NamedTuple):
    """What a stage is given."""

    model: str
    """The model to begin with: the bundle of the stage before, or the model that the user gave."""
    data: Data
    out: str
    """The stage's own folder; its model is to be written to `out/bundle`."""
    teacher: str | None = None
    """Who teaches in every stage. None: whoever teaches is the model to begin with, and the student is cut from it."""
    outputs: str | None = None
    """Folder of the teacher's stored outputs, if not in the stage's own."""
    first: str | None = None
    """The model of the run that knew the task first; who only refines what came out of it may learn from it."""


class Stage:
    """What `stages` in a config may hold: a frozen dataclass with a field `name`.

    A stage of your own subclasses this and defines `run`, which leaves a model in `context.out/bundle`, or returns
    other data for the stages that follow.
    """

    name: str
    job: ClassVar[str]
    """The module whose `run(recipe, context)` does the work."""

    def run(self, context: Context) -> Data | None:
        return import_module(self.job).run(self, context)
