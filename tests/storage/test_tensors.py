"""Arrays survive their file, whatever their memory layout is."""

from pathlib import Path

import numpy as np
import pytest

from bertjax.storage.tensors import save_tensors, stored_arrays


@pytest.mark.parametrize("change", [lambda x: x.T, lambda x: x[..., [2, 0]], lambda x: x[::-1], np.asfortranarray])
def test_an_array_in_any_order_is_stored_in_c_order(tmp_path: Path, change):
    array = change(np.arange(12, dtype=np.float32).reshape(3, 4))
    save_tensors({"a": array}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(stored_arrays(tmp_path / "a.safetensors")["a"], array)
