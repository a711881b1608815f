"""One of two processes that train together, started by test_loop.py: prints sums of the trained parameters as JSON."""

import json
import sys
from pathlib import Path


def main(port: str, index: int, folder: str) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    import numpy as np

    from bertjax.engine.hosts import Processes, exit_process, join, process_shard
    from bertjax.engine.loop import fit
    from bertjax.recipes.optimiser import Optimiser
    from bertjax.recipes.sharding import Sharding
    from bertjax.recipes.training import Training
    from tests.train.problem import batches, learning

    join(Processes(f"localhost:{port}", 2, index))
    sums = {}
    for sharding in (Sharding(4, 1), Sharding(1, 4)):
        training = Training(steps=20, batch_size=16, save_every=10, sharding=sharding, optimiser=Optimiser(clip=1.0))
        name = f"{sharding.data}-{sharding.parameters}"
        trained = fit(
            training,
            Path(folder) / name,
            name,
            learning(),
            batches(training.batch_size, **process_shard()),
        ).params
        sums[name] = float(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(trained)))
    print(json.dumps(sums))
    exit_process(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
