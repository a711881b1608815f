"""The runtimes that a bundle, or an ONNX file, can be measured in."""

from typing import Literal, get_args

BUNDLE_RUNTIMES = {"jax": "float32", "jax-bfloat16": "bfloat16"}
"""The runtimes of a bundle, and the dtype of the products in each."""
FileRuntime = Literal["onnxruntime", "openvino"]
FILE_RUNTIMES: tuple[FileRuntime, ...] = get_args(FileRuntime)
"""The runtimes of an ONNX file."""
FileRuntimes = Literal["onnxruntime", "openvino", "auto"]
"""What a command may be asked for; auto is the faster of both on this machine, for each file."""
