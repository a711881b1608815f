"""What TPUs are, by Google Cloud's pages on them (cloud.google.com/tpu/docs/v4, v5e, v5p and v6e).

Numbers of a chip, which jax shows as one device. The interconnect is given there for all ports of a chip together, in
both directions (of v4 and v5p in one); here it is one link in one direction, because a slice that is smaller than a
whole torus has fewer links.
"""

import re
from typing import NamedTuple

from bertjax.errors import UserError


class Chip(NamedTuple):
    """Rates are per second."""

    device_kind: str
    """What jax calls it."""
    flops: float
    """Dense products of bfloat16."""
    memory: int
    """GiB of HBM. The runtime keeps some of it for itself."""
    memory_rate: float
    """Bytes to and from HBM."""
    link_rate: float
    """Bytes over one link to a neighbour, in one direction."""
    axes: int
    """Of the torus."""


CHIPS = {
    "v4": Chip("TPU v4", 275e12, 32, 1200e9, 50e9, 3),
    "v5e": Chip("TPU v5 lite", 197e12, 16, 819e9, 50e9, 2),
    "v5p": Chip("TPU v5", 459e12, 95, 2765e9, 100e9, 3),
    "v6e": Chip("TPU v6 lite", 918e12, 32, 1638e9, 100e9, 2),
}


class Topology(NamedTuple):
    """A slice: so many chips of a kind along each axis."""

    name: str
    chip: Chip
    sizes: tuple[int, ...]

    @property
    def links(self) -> int:
        """Neighbours of a chip inside the slice: two along an axis, one where an axis has two chips."""
        return sum(min(size - 1, 2) for size in self.sizes)


def topology(name: str) -> Topology:
    """What a name such as `v5e:2x4` means. Whether there is such a slice, libtpu knows."""
    kind, _, sizes = name.partition(":")
    chip = CHIPS.get(kind)
    if chip is None or not re.fullmatch("x".join([r"[1-9]\d*"] * chip.axes), sizes):
        raise UserError(
            f"{name!r} is no TPU topology: expected v5e:2x4, v5e:16x16, v6e:4x4 (two axes), v5p:2x2x1 or v4:2x2x4 "
            "(three), or another number of chips along them."
        )
    return Topology(name, chip, tuple(map(int, sizes.split("x"))))
