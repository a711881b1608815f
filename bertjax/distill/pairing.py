"""Which layer of the student learns from which layer of the teacher.

A pairing is a tuple with one teacher layer (from 0) per student layer. The same tuple determines which layers the
losses compare and which layers initialise the student.

While pruning decides which layers the student keeps, no tuple is right for long. `nearest_layers` then finds a student
layer for each teacher layer anew in every step, from how far apart their states are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertjax.errors import UserError

if TYPE_CHECKING:
    from jax import Array

Pairing = tuple[int, ...]


def pair_layers(rule: str | tuple[int, ...], student_layers: int, teacher_layers: int) -> Pairing:
    """The teacher layer for each student layer.

    Rules: "uniform" (the last of each block of equal size: 1, 3, 5 for 3 of 6; TinyBERT, Jiao et al. 2020), "last" (the
    teacher's last layers), "first" (its first layers), or a tuple of layers.

    Raises:
      UserError: An unknown rule, a layer that the teacher does not have, or not one layer per student layer.
    """
    if isinstance(rule, str):
        if student_layers > teacher_layers:
            raise UserError(
                f"pairing {rule!r} needs a student with at most the teacher's {teacher_layers} layers, and this one "
                f"has {student_layers}; give the pairing as a list with one teacher layer per student layer."
            )
        rules = {
            "uniform": tuple(-(-(i + 1) * teacher_layers // student_layers) - 1 for i in range(student_layers)),
            "last": tuple(range(teacher_layers - student_layers, teacher_layers)),
            "first": tuple(range(student_layers)),
        }
        if rule not in rules:
            raise UserError(
                f"unknown pairing {rule!r}; expected {', '.join(rules)}, or a list with one teacher layer per student "
                "layer."
            )
        return rules[rule]
    if len(rule) != student_layers:
        raise UserError(
            f"the pairing {rule} has {len(rule)} layers; expected one teacher layer for each of the student's "
            f"{student_layers} layers."
        )
    wrong = [layer for layer in rule if not 0 <= layer < teacher_layers]
    if wrong:
        raise UserError(f"the pairing {rule} has layer {wrong[0]}; the teacher's layers are 0 to {teacher_layers - 1}.")
    return tuple(rule)


def nearest_layers(distances: Array, alive: Array, ordered: bool) -> Array:
    """The nearest student layer that is alive for each teacher layer (Xia et al. 2022, section 3.2), as integers [t].
    Of equally near ones it is the lower.

    If no layer is alive, the result is meaningless.

    Args:
      distances: Between each teacher layer and each student layer [t, s].
      alive: The student layers that may be matched, booleans [s].
      ordered: Match from the last teacher layer down, each only below the student layer matched before it. Where none
        is left there, it gets the same one, as in the authors' code.
    """
    import jax.numpy as jnp

    allowed, found = alive, []
    for row in distances[::-1]:
        nearest = jnp.argmin(jnp.where(allowed, row, jnp.inf))
        if ordered:
            nearest = jnp.where(jnp.any(allowed), nearest, found[-1] if found else 0)
            allowed = alive & (jnp.arange(len(alive)) < nearest)
        found.append(nearest)
    return jnp.stack(found[::-1])
