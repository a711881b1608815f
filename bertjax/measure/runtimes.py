"""The runtimes that a bundle can be measured in."""

BUNDLE_RUNTIMES = {"jax": "float32", "jax-bfloat16": "bfloat16"}
"""The runtimes of a bundle, and the dtype of the products in each."""
