"""One mesh with two named axes, and where every array lies on it.

`data` copies the model and divides the batch; `parameters` divides the model as well (each leaf along its longest axis
that can be divided) and gathers it for each pass, as FSDP does. `jit` with `NamedSharding` does all communication.
Two numbers in a config say how many devices go to each.
"""

from collections.abc import Callable, Sequence
from typing import Any

from bertjax.errors import UserError
from bertjax.recipes.sharding import Sharding


def build_mesh(sharding: Sharding, devices: Any = None) -> Any:
    """The mesh over the devices of all processes, or over those given; a single process may use fewer than it has.

    Raises:
      UserError: The two numbers ask for devices that are not there, or leave out those of another process.
    """
    import jax

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


def mesh_over(devices: Sequence[Any], data: int, parameters: int) -> Any:
    """The mesh. Between slices, which slow links join, it only divides the batch: parameters are gathered in each
    layer, gradients are summed once a step.

    Raises:
      UserError: A slice would hold a part of the parameters.
    """
    import jax
    from jax.experimental import mesh_utils
    from jax.sharding import AxisType, Mesh

    # Auto and not Explicit, jax's default: Linen's look-ups do not say how their result is to be laid out.
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


def state_shardings(shapes: Any, mesh: Any) -> Any:
    """A sharding for every leaf: along its longest axis that `parameters` divides, small leaves on every device.

    Moments of an optimiser have the shapes of their parameters, so the same rule puts them beside each other.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    ways = mesh.shape["parameters"]

    def place(leaf: Any) -> NamedSharding:
        axes = [axis for axis in range(len(leaf.shape)) if leaf.shape[axis] % ways == 0]
        if ways == 1 or leaf.size < 1024 or not axes:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "parameters"))

    return jax.tree.map(place, shapes)


def gathered(objective: Callable, mesh: Any) -> Callable:
    """The objective, of parameters that are gathered for it where they are divided.

    Left to itself, XLA (of jax 0.10) leaves them where they are and brings the activations of the whole batch to them:
    more traffic, and more products, as each device computes for the rows of others.
    """
    if mesh.shape["parameters"] == 1:
        return objective
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    whole = NamedSharding(mesh, PartitionSpec())
    return lambda params, extra, *others: objective(*jax.lax.with_sharding_constraint((params, extra), whole), *others)


def rows_on(mesh: Any) -> Any:
    """Where the rows of a batch lie: divided over all devices along the first axis."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec(("data", "parameters")))


def put_batch(batch: dict[str, Any], mesh: Any) -> dict[str, Any]:
    """A process's rows as global arrays."""
    import jax

    rows = rows_on(mesh)
    return {name: jax.make_array_from_process_local_data(rows, array) for name, array in batch.items()}
