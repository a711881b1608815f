"""Integers with their scales as a kind of array. The methods that choose them are in `bertjax.quantize`."""
