"""TPU chips and slices, by Google Cloud's data sheets (cloud.google.com/tpu/docs/v4, v5e, v5p and v6e).

The numbers are per chip, which jax shows as one device. The data sheets give the interconnect for all ports of a chip
together, in both directions (v4 and v5p in one); here it is one link in one direction, because a slice that is smaller
than a whole torus has fewer links.
"""

import importlib.util
import os
import re
from typing import Any, NamedTuple

from bertjax.errors import UserError


class Chip(NamedTuple):
    """Rates are per second."""

    device_kind: str
    """jax's name of the device."""
    flops: float
    """Dense products of bfloat16."""
    memory: int
    """GiB of HBM. The runtime reserves some of it."""
    memory_rate: float
    """Bytes to and from HBM."""
    link_rate: float
    """Bytes over one link to a neighbour, in one direction."""
    axes: int
    """Axes of the torus."""


CHIPS = {
    "v4": Chip("TPU v4", 275e12, 32, 1200e9, 50e9, 3),
    "v5e": Chip("TPU v5 lite", 197e12, 16, 819e9, 50e9, 2),
    "v5p": Chip("TPU v5", 459e12, 95, 2765e9, 100e9, 3),
    "v6e": Chip("TPU v6 lite", 918e12, 32, 1638e9, 100e9, 2),
}
LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server outside of a TPU machine,
    "TPU_WORKER_HOSTNAMES": "localhost",  # so these are its answers
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # for every topology
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so there is nothing to lock
}
"""Read by libtpu when it is loaded; without it, libtpu complains that this is not a TPU machine."""


class Topology(NamedTuple):
    """A slice: the number of chips along each axis."""

    name: str
    chip: Chip
    sizes: tuple[int, ...]

    @property
    def links(self) -> int:
        """Neighbours of a chip inside the slice: two along an axis, one where an axis has two chips."""
        return sum(min(size - 1, 2) for size in self.sizes)


def topology(name: str) -> Topology:
    """Parses a name such as `v5e:2x4`. Whether such a slice exists, only libtpu knows (`tpu_devices`)."""
    kind, _, sizes = name.partition(":")
    chip = CHIPS.get(kind)
    if chip is None or not re.fullmatch("x".join([r"[1-9]\d*"] * chip.axes), sizes):
        raise UserError(
            f"{name!r} is not a TPU topology: expected v5e:2x4, v5e:16x16, v6e:4x4 (two axes), v5p:2x2x1 or v4:2x2x4 "
            "(three), or another number of chips along them."
        )
    return Topology(name, chip, tuple(map(int, sizes.split("x"))))


def tpu_devices(name: str) -> Any:
    """The devices of a slice, to compile for on a machine without a TPU.

    Raises:
      UserError: libtpu is not installed, or has no such slice.
    """
    import jax
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            '--compile_only needs the compiler for TPUs: pip install "bertjax[tpu]" (Linux on x86-64 only).'
        )
    os.environ.update(LIBTPU_ENVIRONMENT)
    options: dict[str, Any] = {}
    if set(topology(name).sizes) == {1}:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if name.startswith("v4"):
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as in jax on a TPU v4
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("INVALID_ARGUMENT"):
            raise
        raise UserError(
            f"--compile_only={name}: libtpu has no such slice.\n"
            "Slices are v5e or v6e: 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16; v4 or v5p: 1x1x1, 2x2x1, 2x2x2, 2x2x4, "
            "2x4x4, 4x4x4 and multiples."
        ) from error
