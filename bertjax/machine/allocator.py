"""A glibc malloc setting for XLA on CPUs: keep freed memory instead of returning it to the system.

XLA allocates the temporary buffer of a compiled function with one malloc per call. glibc returns blocks of that size to
the system at once, and the system zeroes every page again on the next call: half a gigabyte in every training step of
MiniLM at batch 32, a sixth of the step's time. The price: the process keeps its peak memory, and threads share one
heap.
"""

import ctypes
import sys

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Sets malloc to keep freed memory. Returns False, and changes nothing, where malloc is not glibc's.

    Call it once, before jax is imported, in a program and not in a library: it affects the whole process, and threads
    that are already running keep their own heaps.
    """
    if not sys.platform.startswith("linux") or not hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    # Only the main heap can hold large blocks without mmap, and XLA allocates in its own threads.
    settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
    return all(libc.mallopt(option, value) for option, value in settings.items())
