"""The processor of this machine, and whether it multiplies 8-bit integers and bfloat16 faster than float32."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

INTEGER_PRODUCTS: Mapping[str, str] = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX",
    "asimddp": "the dot product of Neon",
    "i8mm": "the 8-bit matrix product of Neon",
}
"""CPU features (Linux names) that multiply 8-bit integers faster than floats."""
BFLOAT16_PRODUCTS = ("amx_bf16", "avx512_bf16", "bf16")
"""CPU features that multiply bfloat16 natively; without them it is converted to float32 first."""


def processor_name() -> str:
    """The name of this machine's processor."""
    named = _line("model name")
    return named or platform.processor() or platform.machine()


def processor_features() -> frozenset[str] | None:
    """The CPU features in /proc/cpuinfo ("flags" on x86, "Features" on Arm), or None where there are none."""
    named = _line("flags", "features")
    return None if named is None else frozenset(named.split())


def multiplies_integers(features: frozenset[str] | None) -> bool:
    """Whether such a processor multiplies 8-bit integers faster than floats; True where its features are unknown."""
    return features is None or not features.isdisjoint(INTEGER_PRODUCTS)


def integer_products(features: frozenset[str] | None) -> str:
    """The expected speed of int8 on such a processor, as a sentence."""
    if features is None:
        return "it is unknown whether this processor multiplies 8-bit integers faster than floats"
    able = [name for flag, name in INTEGER_PRODUCTS.items() if flag in features]
    if able:
        return f"this processor multiplies 8-bit integers faster than floats ({', '.join(able)})"
    return (
        "this processor has no instruction for sums of 8-bit products (VNNI or the like): int8 saves size, but "
        "hardly any time"
    )


def emulates_bfloat16(features: frozenset[str] | None) -> bool:
    """Whether such a processor has no native bfloat16 products; False where its features are unknown."""
    return features is not None and not features & {*BFLOAT16_PRODUCTS}


def thread_count() -> int:
    """The number of processors that this process may use; every runtime starts one thread for each."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _line(*names: str) -> str | None:
    """The value of the first of these entries in /proc/cpuinfo, or None."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    named = next((line for line in lines if line.lower().startswith(names)), None)
    return None if named is None else named.partition(":")[2].strip()
