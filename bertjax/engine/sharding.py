"""One device mesh with two named axes, and where every array lies on it.

`data` divides the batch and copies the model. `parameters` divides the model as well (each leaf along its longest axis
that can be divided) and gathers it for each pass, as FSDP does: less memory for more communication. `jit` with
`NamedSharding` inserts all collectives. Two numbers in a config give the size of each axis.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bertjax.errors import UserError
from bertjax.learn.step import Objective
from bertjax.params import Tree
from bertjax.recipes.sharding import Sharding


def build_mesh(sharding: Sharding, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over the given devices, by default over those of all processes; a single process may use fewer.

    Raises:
      UserError: The product of the two numbers is not the number of devices.
    """
    devices = devices or jax.devices()
    count = len(devices)
    data = sharding.data or max(1, count // sharding.parameters)
    used = data * sharding.parameters
    if used > count or (used < count and (jax.process_count() > 1 or not sharding.data)):
        raise UserError(
            f"--sharding.data={sharding.data} --sharding.parameters={sharding.parameters}: their product must be the "
            f"number of devices, {count}."
        )
    return mesh_over(devices[:used], data, sharding.parameters)


def mesh_over(devices: Sequence[Any], data: int, parameters: int) -> Mesh:
    """The mesh of these devices. Between TPU slices, whose links are slow, only the batch is divided: gradients are
    summed once per step, but parameters are gathered in every layer.

    Raises:
      UserError: The parameters would be divided across slices.
    """
    # Auto and not Explicit, jax's default: Linen's embedding lookups do not give the sharding of their result.
    names, axis_types = ("data", "parameters"), (AxisType.Auto,) * 2
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh((data, parameters), names, axis_types=axis_types, devices=devices)
    if data % slices:
        raise UserError(
            f"--sharding.data={data} --sharding.parameters={parameters}: parameters are divided inside a slice, so "
            f"data must be a multiple of the number of slices, {slices}."
        )
    grid = mesh_utils.create_hybrid_device_mesh((data // slices, parameters), (slices, 1), devices)
    return Mesh(grid, names, axis_types=axis_types)


def state_shardings(shapes: Any, mesh: Mesh) -> Any:
    """A sharding for every leaf: along its longest axis that `parameters` divides; small leaves are replicated.

    The moments of an optimiser have the shapes of their parameters, so both get the same sharding.
    """
    ways = mesh.shape["parameters"]

    def place(leaf: Any) -> NamedSharding:
        axes = [axis for axis in range(len(leaf.shape)) if leaf.shape[axis] % ways == 0]
        if ways == 1 or leaf.size < 1024 or not axes:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "parameters"))

    return jax.tree.map(place, shapes)


def gathered(objective: Objective, mesh: Mesh) -> Objective:
    """The objective with its parameters, and the masks of transforms, gathered on every device first.

    Without this constraint XLA (jax 0.10) leaves the parameters divided and gathers the activations of the whole batch
    instead: more traffic, and more products, because each device then computes rows of other devices. A product of
    gathered parameters and a divided mask would be divided again.
    """
    if mesh.shape["parameters"] == 1:
        return objective
    whole = NamedSharding(mesh, PartitionSpec())

    def terms(params: Tree, extra: Tree, state: Tree, *others: Any) -> Any:
        return objective.terms(*jax.lax.with_sharding_constraint((params, extra, state), whole), *others)

    return objective._replace(terms=terms)


def rows_on(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its rows divided over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "parameters")))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The rows of this process as parts of global arrays."""
    rows = rows_on(mesh)
    return {name: jax.make_array_from_process_local_data(rows, array) for name, array in batch.items()}
