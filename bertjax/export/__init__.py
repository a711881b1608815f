"""Export: a model as a file that other runtimes execute without bertjax.

    graph.py          an ONNX graph, node by node, with every weight stored once
    products.py       its products: in floating point, or with the integers that the model was quantised to
    packed.py         weights in few bits, and the nodes that unpack them when the file is loaded
    tokens.py         token dropping in it: which tokens go on, and the way back to the whole text
    exits.py          the rules by which texts exit early
    bottleneck.py     MobileBERT's layers and trigrams
    recurrence.py     Universal Transformers: unrolled, or with halting as a loop
    heads.py          the heads of pre-training
    onnx.py           a bundle as ONNX: embeddings, layers, exits and heads, put together
    requirements.py   the opset and the lowest ONNX Runtime of each feature of such a file
    stablehlo.py      a bundle as one program for CPU, GPU and TPU that can be loaded with jax alone
    litert.py         a bundle for phones and small boards, by way of StableHLO; experimental
    hf_equivalent.py  a bundle in a shape that plain transformers knows, with zeros where parts were pruned
    check.py          the outputs of an export compared with JAX, and the cause of a difference
    folder.py         the exported folder: model file, config and tokenizer, checked before it is put in place

    python -m bertjax.export runs/int8/bundle --to onnx --out exports/int8

BERT's graph is known, so the ONNX graph is written here node by node instead of traced: no converter adds nodes that a
runtime does not recognise. Attention, LayerNorm and GELU have the form that ONNX Runtime fuses. The price is that every
new kind of model must be added here as well. A model that cannot be expressed is refused with the reason.
"""

from bertjax.callable_package import make_callable
from bertjax.export.folder import export

__all__ = ["export"]

make_callable(__name__)
