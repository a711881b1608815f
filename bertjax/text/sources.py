"""Four kinds of source behind one function: files, TFDS, lists in memory, the demo."""

from bertjax.text.examples import Examples, Table
from bertjax.text.tasks import Task


def load_examples(source, task: Task = Task(), split: str = "train", *, labelled: bool = False) -> Examples: ...


def infer_task(source, task: Task = Task(), split: str = "train") -> Task: ...
