"""A cap on the memory of a process, so that what needs more fails alone and the machine does not begin to swap.

The system refuses an allocation beyond the cap, and XLA and NumPy turn that into an error, after which the process goes
on. The price: what does not expect a refusal, such as a thread that cannot get its stack, ends the process.
"""

import contextlib
from collections.abc import Iterator

from bertjax.errors import UserError


@contextlib.contextmanager
def memory_cap(gigabytes: float | None) -> Iterator[None]:
    """Inside of it, this process and those that it starts may each hold at most so many gigabytes (10^9 bytes) of
    private memory; None for no cap.

    Raises:
      UserError: The system has no such cap.
    """
    if gigabytes is None:
        yield
        return
    try:
        from resource import RLIMIT_DATA, getrlimit, setrlimit
    except ImportError:
        raise UserError(f"a cap of {gigabytes:g} GB on memory needs Linux or macOS; leave it out.") from None
    before = getrlimit(RLIMIT_DATA)
    setrlimit(RLIMIT_DATA, (int(gigabytes * 1e9), before[1]))
    try:
        yield
    finally:
        setrlimit(RLIMIT_DATA, before)
