"""The student's shape, and its start from what the teacher already knows.

A student of the teacher's width begins with the teacher's embeddings, some of its layers, the strongest of their
neurons and its head: it is a teacher with parts missing, and far ahead of random numbers. A narrower student cannot
take layers over; it begins with random layers.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertjax.distill.pairing import pair_layers
from bertjax.errors import UserError


@dataclass(frozen=True)
class Student:
    """A smaller model of the teacher's kind. What is left open is as in the teacher."""

    num_hidden_layers: int = 2
    intermediate_size: int | None = None
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    pairing: str | tuple[int, ...] = "uniform"
    """Teacher layers that the student begins with: uniform, last, first, or the layers themselves."""
    start: str = "teacher"
    """teacher: begin with the teacher's own layers. random: begin with random numbers."""

    def __post_init__(self) -> None:
        if self.num_hidden_layers < 1:
            raise UserError(f"num_hidden_layers is {self.num_hidden_layers}; a student needs at least 1 layer.")
        if self.start not in ("teacher", "random"):
            raise UserError(f"start is {self.start!r}; expected teacher or random.")

    def config(self, teacher: Any) -> Any:
        """The student's `BertConfig`, from the teacher's."""
        sizes = ("num_hidden_layers", "intermediate_size", "hidden_size", "num_attention_heads")
        changes = {name: getattr(self, name) for name in sizes if getattr(self, name) is not None}
        return teacher.replace(**changes, layers=())

    def initialise(self, teacher: Any, seed: int) -> Any:
        """The student as a `Bundle` with the teacher's tokenizer."""
        import jax
        import jax.numpy as jnp

        from bertjax.bundle import Bundle
        from bertjax.model import build

        config = self.config(teacher.config)
        model = build(config)
        draw = jax.jit(lambda key: model.init(key, jnp.zeros((1, 8), jnp.int32))["params"])
        params = jax.tree.map(np.asarray, draw(jax.random.key(seed)))
        student = Bundle(config, params, teacher.tokenizer)
        if self.start == "random" or config.hidden_size != teacher.config.hidden_size:
            return student
        return dataclasses.replace(student, params=inherit(student, teacher, self.pairing))


def inherit(student: Any, teacher: Any, pairing: str | tuple[int, ...]) -> dict[str, Any]:
    """The student's parameters with everything the teacher can give: all that is not a layer, and the paired layers."""
    if any(len(set(bundle.config.depth_steps())) > 1 for bundle in (student, teacher)):
        raise UserError("a student can take over layers only where all of them have one shape; use start=random.")
    layers = pair_layers(pairing, student.config.num_hidden_layers, teacher.config.num_hidden_layers)
    params = dict(teacher.params)
    neurons = student.config.intermediate_size
    heads = student.config.num_attention_heads
    if heads != teacher.config.num_attention_heads:
        raise UserError(
            f"the student has {heads} attention heads, the teacher {teacher.config.num_attention_heads}; "
            "a student that takes over layers keeps their heads. Use the same number, or start=random."
        )
    stack = teacher.params["encoder"]
    params["encoder"] = {f"layer_{i}": narrow_ffn(stack[f"layer_{t}"], neurons) for i, t in enumerate(layers)}
    return params


def narrow_ffn(layer: dict[str, Any], neurons: int) -> dict[str, Any]:
    """A layer with its strongest neurons only: those of the largest product of input and output weight norms."""
    ffn = layer["ffn"]
    inner, outer = ffn["intermediate"]["kernel"], ffn["output"]["kernel"]
    if neurons > inner.shape[1]:
        raise UserError(f"the student has {neurons} neurons a layer, the teacher only {inner.shape[1]}.")
    strength = np.linalg.norm(inner, axis=0) * np.linalg.norm(outer, axis=1)
    kept = np.sort(np.argsort(-strength, kind="stable")[:neurons])
    narrowed = {
        **ffn,
        "intermediate": {"kernel": inner[:, kept], "bias": ffn["intermediate"]["bias"][kept]},
        "output": {**ffn["output"], "kernel": outer[kept]},
    }
    return {**layer, "ffn": narrowed}
