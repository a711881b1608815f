"""What every test runs under: eight simulated devices, no silent rank promotion, compiled programs kept between runs.

The processes which tests start see one device, as a user does. They share a folder of compiled programs through the
environment; it lies in the temporary folder of this machine because the programs are built for this processor. Tests
kill processes, also while they write there, so the programs of this process are kept in a folder beside it.
"""

import ctypes
import gc
import getpass
import os
import signal
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import tests.typecheck  # noqa: F401  (pyproject.toml names it as the checker of annotations)

COMPILED = Path(tempfile.gettempdir()) / f"bertjax-tests-{getpass.getuser()}"

# A suite started under nohup or in the background of a shell ignores these two, and so would every process of a test.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Most of a test's time is spent on compiling: XLA's passes are as usual, LLVM's are left out, and the older emitter of
# fusions takes a quarter of the time. Two such programs for the same step may differ in the last bit, so the processes
# that are compared bit by bit are compiled as a user's are.
FLAGS = os.environ.get("XLA_FLAGS")
QUICK = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):  # XLA ends the process at a flag that it does not know
    QUICK += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{FLAGS or ''} {QUICK}"

import jax  # noqa: E402  (reads the variables above when it is imported)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"] + "-in-process")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.devices()  # reads the flags, which are for this process alone
os.environ.pop("XLA_FLAGS") if FLAGS is None else os.environ.update(XLA_FLAGS=FLAGS)
jax.config.update("jax_numpy_rank_promotion", "raise")

from tests.gcs import Storage, storage  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def memory_is_given_back() -> Iterator[None]:
    """Drops compiled programs when they take much memory. A fork copies the tables of all of it: tests that kill a
    child at every line take 20 times longer in a process of 5 GB. Linux also limits the number of mapped areas."""
    yield
    statm = Path("/proc/self/statm")
    if statm.exists() and int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 1.5e9:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def bucket() -> Iterator[Storage]:
    """A Cloud Storage that this process and those that it starts find at `gs://bucket`."""
    with storage() as service, pytest.MonkeyPatch.context() as patch:
        for name, value in service.environment.items():
            patch.setenv(name, value)
        yield service
