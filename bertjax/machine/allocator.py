"""Keeping the memory that XLA gives back on a CPU, because it asks for the same again a moment later.

XLA takes what a compiled function needs for its intermediate results in one piece from malloc and frees it when the
call ends. glibc returns pieces of that size to the system at once, and the system hands them out again page by page,
each cleared: half a gigabyte in every training step of MiniLM at batch 32, a sixth of the step's time. Told to keep
what was freed, it costs nothing. The price: a process keeps the most it ever used, and C threads share one heap.
"""

import ctypes
import sys

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tells malloc to keep what this process frees. False where malloc is not glibc's, and nothing was changed.

    To be called once, before jax is imported, by a program and not by a library: it concerns everything in the
    process, and a thread that was started earlier keeps a heap of its own, which maps large pieces all the same.
    """
    if not sys.platform.startswith("linux") or not hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    # Only the main heap can hold large pieces without mapping them; XLA allocates in threads of its own.
    settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
    return all(libc.mallopt(option, value) for option, value in settings.items())
