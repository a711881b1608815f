"""How the devices are used."""

from dataclasses import dataclass

from bertjax.errors import UserError


@dataclass(frozen=True)
class Sharding:
    """How the devices are used. Both 1 on a single device."""

    data: int = 0
    """Ways to divide the batch; 0 takes all devices that `parameters` leaves."""
    parameters: int = 1
    """Ways to divide parameters and optimiser state (and the batch as well)."""

    def __post_init__(self) -> None:
        if self.data < 0 or self.parameters < 1:
            raise UserError(
                f"--sharding.data={self.data} --sharding.parameters={self.parameters}: expected data from 0 and "
                "parameters from 1"
            )
