"""Claims about memory that is kept."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, statistics, sys
from bertjax.machine.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import jax, jax.numpy as jnp
f = jax.jit(lambda x: jnp.cumsum(jnp.cos(jnp.outer(x, x)), axis=0).sum())  # 16 MiB and more in between
x, faults = jnp.arange(2048.0), []
for _ in range(60):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(round(statistics.median(faults[30:])))
"""


def page_faults(mode: str) -> int:
    """Of a call, once the heap has grown to what calls need: the first ones still find it in pieces."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_a_compiled_call_finds_the_memory_of_earlier_calls():
    """Pages of 4 KiB: 4,096 for each array of the call."""
    assert page_faults("default") > 4_000
    assert page_faults("keep") < 100
