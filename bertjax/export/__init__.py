"""What leaves the project: a model as a file that other runtimes execute, and that nobody needs bertjax to load.

    graph.py      an ONNX graph, node by node, every weight stored once
    onnx.py       a bundle as ONNX: floating point, or the integers that it was quantised to
    stablehlo.py  a bundle as one program for CPU, GPU and TPU, loadable with jax alone
    litert.py     a bundle for phones and small boards, by way of StableHLO; experimental
    twin.py       a bundle in a shape that plain transformers knows, with zeros where parts are missing
    folder.py     the folder around it: config, tokenizer; and the check against JAX before anybody is told it is done

    python -m bertjax.export runs/int8/bundle --to onnx --out exports/int8

BERT's graph is known, so it is written down here and not traced: no converter in between whose nodes a runtime does not
recognise. Attention, LayerNorm and GELU stand in the form that ONNX Runtime fuses. The price is that a new kind of
model has to be written here, too; what cannot be expressed is refused with the reason.
"""

from bertjax.export.folder import export

__all__ = ["export"]
