"""How closely two computations of the same thing must agree, stated once, by case.

Use as `np.testing.assert_allclose(ours, theirs, **SAME_MATHS)`. Masks, ids and counts agree exactly.
"""

from typing import Any

SAME_MATHS: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
"""float32, the same formula by another route: jit or not, padded or not, one device or eight."""

OTHER_FRAMEWORK: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
"""float32, the same model in PyTorch or ONNX Runtime, whose sums run in another order."""

REAL_WEIGHTS: dict[str, Any] = {"rtol": 0, "atol": 1e-5}
"""float32, published weights against PyTorch."""

BFLOAT16: dict[str, Any] = {"rtol": 2e-2, "atol": 2e-2}
"""bfloat16 against float32: eight bits of mantissa."""
