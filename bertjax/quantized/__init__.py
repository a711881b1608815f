"""Quantised arrays: integers with scales, and how they are stored. The methods that choose scales are in
`bertjax.quantize`."""
