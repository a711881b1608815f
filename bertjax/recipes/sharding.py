"""How data and parameters are divided over the devices."""

from dataclasses import dataclass

from bertjax.errors import UserError


@dataclass(frozen=True)
class Sharding:
    """How data and parameters are divided over the devices. Both 1 on a single device."""

    data: int = 0
    """Data parallelism: number of parts of each batch; 0 means number of devices / parameters."""
    parameters: int = 1
    """Fully sharded parallelism (FSDP): number of parts of parameters and optimiser state. Divides the batch as
    well."""

    def __post_init__(self) -> None:
        if self.data < 0 or self.parameters < 1:
            raise UserError(
                f"--sharding.data={self.data} --sharding.parameters={self.parameters}: expected data from 0 and "
                "parameters from 1"
            )
