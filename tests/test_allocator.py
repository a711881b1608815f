"""Claims about memory that is kept."""

import subprocess
import sys

PROGRAM = """
import resource, sys
from bertjax.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import jax, jax.numpy as jnp
f = jax.jit(lambda x: jnp.sort(jnp.outer(x, x), axis=0).sum())  # 64 MiB and more in between
x = jnp.arange(4096.0)
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    """Of the third call."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_compiled_call_finds_the_memory_of_the_call_before():
    """Pages of 4 KiB: 16,384 for each array of the call."""
    assert page_faults("default") > 16_000
    assert page_faults("keep") < 1_000
