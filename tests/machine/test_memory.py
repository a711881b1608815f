"""A cap on memory, in a process of its own."""

import subprocess
import sys

PROGRAM = """
import jax.numpy as jnp, numpy as np
from bertjax.machine.memory import memory_cap
size = 10**9
with memory_cap(3.0):
    for ones, error in ((np.ones, MemoryError), (jnp.ones, Exception)):
        try:
            ones(size).sum()
            print("allocated")
        except error as refused:
            print(type(refused).__name__)
    print(float(jnp.ones(8).sum()))
print(np.ones(size // 2, np.int64).nbytes)
"""


def test_what_needs_more_than_the_cap_fails_and_the_process_goes_on():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["MemoryError", "JaxRuntimeError", "8.0", "4000000000"]
