"""A bundle as a LiteRT model (formerly TensorFlow Lite), for phones and small boards. Experimental.

    from ai_edge_litert.interpreter import Interpreter
    run = Interpreter("model.tflite").get_signature_runner()
    ids = np.array([[101, 2307, 102]], np.int32)
    logits = run(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))["logits"]

A call takes one text of any length; with a variable batch size as well the converter fails. The converter reads
StableHLO, so TensorFlow is not needed, but this entry point (`converter_api_ext` of litert-converter 0.5) is
undocumented, and GELU becomes many small operators.

A quantised model keeps its own ranges: its inputs are rounded by ordinary operators, and its products are BATCH_MATMUL
of bytes with sums in 32 bits, so the sums are those of JAX. LiteRT's own scheme (quantised tensors, FULLY_CONNECTED)
would round every result between two products as well. The gain is the size of the file, a byte per weight, also where
the bundle has fewer bits. It is no gain of time on x86-64, where LiteRT's product of bytes is slower than that of
float32. What a processor of a phone makes of it is not measured.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.export.products import has_integer_product, output_scales
from bertjax.model.bert import BertModel
from bertjax.model.quantized import QuantizedProduct, quantise_input
from bertjax.quantized.tensor import Quantized

INSTALL = "pip install 'bertjax[litert]' && pip install --no-deps 'litert-converter==0.5.*'"
"""Two steps, because dependencies of litert-converter that are not used here need an older typing-extensions than
tyro."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class ByteProduct:
    """The integer products of a quantised model in a form that the converter knows.

    One more axis keeps them BATCH_MATMUL: a product of two matrices becomes FULLY_CONNECTED, which takes no plain
    bytes. The zero point's part of the sums is a constant, because slices of a variable number of rows fail.
    """

    product: QuantizedProduct
    by_rows = True

    def __call__(self, site: str, subscripts: str, left: Any, right: Any) -> Any:
        import jax
        import jax.numpy as jnp

        activation = dict(self.product.activations).get(site)
        integer = isinstance(right, Quantized) and has_integer_product(right) and subscripts.endswith("o")
        if activation is None or not integer:
            return self.product(site, subscripts, left, right)
        integers, scale, zero = quantise_input(left, activation)
        rows, values = integers.reshape(1, -1, integers.shape[-1]), np.asarray(right.values)
        dimensions = (((2,), (1,)), ((0,), (0,)))
        sums = jax.lax.dot_general(rows, jnp.asarray(values)[None], dimensions, preferred_element_type=jnp.int32)
        if zero:
            sums = sums - (int(zero) * values.sum(axis=0, dtype=np.int32))[None, None]
        scale = scale.reshape(1, -1, 1) * output_scales(right)[None, None]
        return (sums.astype(jnp.float32) * scale).reshape(*integers.shape[:-1], values.shape[1])


def litert_model(model: BertModel, params: Any) -> bytes:
    """The flatbuffer of `(ids, mask, types) -> logits`, with int32 inputs [1, length], float32 output and the weights
    inside.

    Raises:
      UserError: The converter cannot express it.
      ModuleNotFoundError: The packages are not installed, see `INSTALL`.
    """
    from litert_converter import converter_api_ext as api  # pyright: ignore[reportMissingImports]  (an extra)
    from litert_converter.mlir import ir  # pyright: ignore[reportMissingImports]
    from litert_converter.mlir.passmanager import PassManager  # pyright: ignore[reportMissingImports]

    if isinstance(model.product, QuantizedProduct):
        model = model.clone(product=ByteProduct(model.product))
    program, context = stablehlo(model, params), ir.Context()
    api.prepare_mlir_context(context)
    try:
        with context, ir.Location.unknown():
            module = ir.Module.parse(program)
            api.set_signature(module.operation, "serving_default", INPUTS, ("logits",))
            api.run_convert_to_tfl_passes(module, PassManager("builtin.module"), api.ConvertToTFLConfig())
            return api.export_flatbuffer_to_bytes(module.operation)
    except (ValueError, RuntimeError, ir.MLIRError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"LiteRT cannot express this model: {reason}\nTry --to onnx or --to stablehlo.") from error


def stablehlo(model: BertModel, params: Any) -> str:
    """The program as MLIR text, for one text of any length."""
    import jax
    import jax.numpy as jnp
    from jax import export

    from bertjax.predict import forward

    def call(ids: Any, mask: Any, types: Any) -> Any:
        return forward.function(model, params, ids, mask, types)

    shape = export.symbolic_shape("1, l", constraints=["l >= 2", f"l <= {model.config.max_tokens}"])
    text = jax.ShapeDtypeStruct(shape, jnp.int32)
    return export.export(jax.jit(call), platforms=("cpu",))(text, text, text).mlir_module()


def answer_each(path: Any, ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> np.ndarray:
    """The logits of a written file for a batch, computed one text at a time."""
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    run = Interpreter(str(path)).get_signature_runner()
    texts = zip(ids[:, None], mask[:, None], types[:, None], strict=True)
    return np.concatenate([run(**dict(zip(INPUTS, text, strict=True)))["logits"] for text in texts])
