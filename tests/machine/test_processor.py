"""What a processor's features say of it, for processors that this machine is not."""

import pytest

from bertjax.machine.processor import emulates_bfloat16
from tests.benchmarks import speed


@pytest.mark.parametrize(
    ("features", "emulates"),
    [
        ({"avx2", "fma"}, True),
        ({"avx512f", "avx512_vnni"}, True),
        ({"avx512f", "avx512_bf16"}, False),
        ({"amx_tile", "amx_bf16"}, False),
        ({"asimd", "bf16"}, False),
        ({"asimd", "asimddp"}, True),
    ],
)
def test_bfloat16_is_emulated_where_nothing_multiplies_it(features: set[str], emulates: bool, monkeypatch):
    assert emulates_bfloat16(frozenset(features)) == emulates
    monkeypatch.setattr(speed, "processor_features", lambda: frozenset(features))
    for kind in ("train", "infer"):
        taking_part = speed.frameworks(kind)
        assert "bertjax" in taking_part
        assert any("bfloat16" in name for name in taking_part) != emulates


def test_where_nothing_is_known_of_a_processor_all_take_part():
    assert not emulates_bfloat16(None)
