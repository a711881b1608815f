"""An exported folder as its runtime sees it: its session, and its graph after optimisation.

The graph in the file is not the graph that runs: the runtime rewrites it for the processor. Whether a product is
computed with integers, or attention is fused, is read from the rewritten graph. This module imports neither jax nor
torch, because whoever ships an ONNX file has neither.
"""

import math
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.measure.openvino import OpenVinoSession, reason
from bertjax.measure.runtimes import FileRuntime
from bertjax.model.config import stated_max_tokens
from bertjax.storage.paths import as_path, is_remote, joined, local
from bertjax.storage.typed_json import read_json, value

FLOATS, INTEGERS = "onnx/model.onnx", "onnx/model_quantized.onnx"
"""The path of the ONNX file in an exported folder, for floating-point and for integer weights. transformers.js,
sentence-transformers and text-embeddings-inference look for these names."""
BESIDE = "model.onnx"
"""The path in older exports and those of other tools."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = (("logits",), ("start_logits", "end_logits"), ("sentence_embedding",), ("last_hidden_state",))
DEPTH = "depth"
"""The output of a model whose texts exit early or halt."""
DECISIONS = ("If", "Loop", "TopK")
"""Operators of files in which texts exit early, halt, or lose tokens: what is computed depends on which of two numbers
is larger."""
INTEGER_PRODUCTS = (
    *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "QAttention"),
    *("MatMulNBits", "DynamicQuantizeLSTM", "ConvInteger", "QLinearConv"),
)
"""Operators of ONNX and of ONNX Runtime that multiply numbers of eight bits or fewer."""
LOWEST = (1, 25)
"""The first ONNX Runtime whose integer products are correct on processors with AMX for every number of rows (its pull
request 27671)."""


class Graph(NamedTuple):
    """The number of nodes per operator, in the file and after the runtime's optimisation on this machine."""

    stored: Mapping[str, int]
    executed: Mapping[str, int]
    widened: int = 0
    """Number of stored integers that every call converts to floats, because no kernel reads integers there."""


def onnx_file(folder: str | os.PathLike) -> Any:
    """The path of the ONNX file of an exported folder, or None.

    A folder with its own safetensors is a bundle, even if a checkpoint from the hub has files in `onnx/` for other
    clients. Only a `model.onnx` beside the weights counts there.

    Raises:
      UserError: There are several.
    """
    place = as_path(folder)
    weights = any(place.glob("*.safetensors")) if place.is_dir() else False
    names = (BESIDE,) if weights else (BESIDE, FLOATS, INTEGERS)
    existing = [name for name in names if (place / name).is_file()]
    if len(existing) > 1:
        raise UserError(f"{folder} holds {' and '.join(existing)}, which is ambiguous; keep one of them.")
    return place / existing[0] if existing else None


def existing_file(folder: str | os.PathLike) -> Path:
    """As `onnx_file`, but a missing file is an error."""
    path = onnx_file(folder)
    if path is None:
        raise UserError(f"{folder} holds no ONNX file: expected {FLOATS}, {INTEGERS} or {BESIDE} in it.")
    return path


def open_session(
    folder: str | os.PathLike, threads: int, optimised: str | None = None, runtime: FileRuntime = "onnxruntime"
) -> Any:
    """A session on the CPU, after a check for the inputs and the output that our exports have.

    ONNX Runtime writes the optimised graph to `optimised`.
    """
    path, in_openvino = existing_file(folder), runtime == "openvino"
    try:
        session = OpenVinoSession(str(path), threads) if in_openvino else new_session(str(path), threads, optimised)
    except UserError:
        raise
    except Exception as error:  # each kind of bad file has its own class; Exception is their only common parent
        name, why = ("OpenVINO", reason(error)) if in_openvino else ("ONNX Runtime", str(error).splitlines()[0])
        raise UserError(f"{name} cannot open {path}: {why}") from None
    unknown = [one.name for one in session.get_inputs() if one.name not in INPUTS]
    output_names = {one.name for one in session.get_outputs()}
    if unknown or not any(output_names.issuperset(names) for names in OUTPUTS):
        outputs = ", ".join(one.name for one in session.get_outputs())
        inputs = ", ".join(one.name for one in session.get_inputs())
        raise UserError(
            f"{path} has the inputs {inputs} and the outputs {outputs}.\nExpected inputs among {', '.join(INPUTS)}, "
            "and the outputs `logits`, or `start_logits` and `end_logits`, or `sentence_embedding`, or "
            "`last_hidden_state`."
        )
    return session


def new_session(model: str | bytes, threads: int = 1, optimised: str | None = None) -> Any:
    """A session on the CPU for a path or a serialised model.

    Idle threads sleep, because spinning ones would slow whatever is measured at the same time.

    Raises:
      UserError: ONNX Runtime is missing, or too old for correct integer products.
    """
    runtime = _package("onnxruntime")
    if tuple(int(part) for part in runtime.__version__.split(".")[:2]) < LOWEST:
        raise UserError(
            f"onnxruntime {runtime.__version__} is installed; at least {'.'.join(map(str, LOWEST))} is needed: earlier "
            "ones compute wrong integer products on processors with AMX.\npip install --upgrade onnxruntime"
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # no warning that the optimised file is for this machine only
    if optimised is not None:
        options.optimized_model_filepath = optimised
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Answer(NamedTuple):
    """A model's output for a batch."""

    output: np.ndarray
    """Logits, embeddings or hidden states. For question answering, start and end are stacked on the last axis."""
    depths: np.ndarray | None
    """The depth steps that each text took [batch]; None for a model that takes all."""


def answer(session: Any, ids: Any, mask: Any, types: Any, name: str = "") -> Answer:
    """Runs a batch of ids, mask and types [batch, length]. With a name, that is the output, and there are no depths."""
    inputs = dict(zip(INPUTS, (ids, mask, types), strict=True))
    output_names = {one.name for one in session.get_outputs()}
    names = next(names for names in OUTPUTS if output_names.issuperset(names))
    needed = {one.name: np.asarray(inputs[one.name], np.int64) for one in session.get_inputs()}
    if name:
        return Answer(session.run([name], needed)[0], None)
    depth = [DEPTH] if DEPTH in output_names else []
    outputs = session.run([*names, *depth], needed)
    depths = outputs.pop() if depth else None
    return Answer(outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1), depths)


def longest_input(folder: str | os.PathLike) -> int:
    """The most tokens that the model reads, from `config.json`."""
    return stated_max_tokens(described(folder)[0], f"{folder}/config.json")


def described(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of `config.json`, and that of its key `bertjax`."""
    content = read_json(local(folder) / "config.json")
    return content, value(dict | None, content.get("bertjax"), f"{folder}/config.json: bertjax") or {}


def origin_of(folder: str | os.PathLike) -> Any:
    """The path of the bundle that an export was made from, if `config.json` names it and it still exists."""
    named = value(str | None, described(folder)[1].get("bundle"), f"{folder}/config.json: bertjax.bundle")
    if not named:
        return None
    remote = is_remote(folder) or is_remote(named)
    path = as_path(joined(folder, named)) if remote else (Path(folder) / named).resolve()
    return path if path.is_dir() else None


def read_graph(folder: str | os.PathLike, runtime: FileRuntime = "onnxruntime") -> Graph:
    """The operators of a folder's file before and after the runtime's optimisation."""
    onnx = _package("onnx")
    if runtime == "openvino":
        stored = onnx.load(existing_file(folder), load_external_data=False)
        return Graph(Counter(_operators(stored.graph)), open_session(folder, 1, runtime=runtime).executed())
    with tempfile.TemporaryDirectory() as temporary:
        target = os.path.join(temporary, "optimised.onnx")
        open_session(folder, threads=1, optimised=target)
        stored, executed = (onnx.load(path, load_external_data=False) for path in (existing_file(folder), target))
    return Graph(Counter(_operators(stored.graph)), Counter(_operators(executed.graph)), _widened(executed.graph))


def graphs(graph: Any) -> Iterator[Any]:
    """A graph, and those of its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def unpacked(graph: Any, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that the nodes of a graph compute from its constants, as they do for packed weights."""
    helper = _package("onnx.helper")
    known, nodes = {one.name for one in graph.initializer}, []
    for node in graph.node:
        if known.issuperset(node.input):
            nodes.append(node)
            known.update(node.output)
    made = [name for node in nodes for name in node.output if name in names]
    if not made:
        return {}
    outputs = [helper.make_empty_tensor_value_info(name) for name in made]
    part = helper.make_graph(nodes, "unpacking", [], outputs, graph.initializer)
    model = helper.make_model(part, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return dict(zip(made, new_session(model.SerializeToString()).run(made, {}), strict=True))


def _operators(graph: Any) -> list[str]:
    return [node.op_type for one in graphs(graph) for node in one.node]


def _widened(graph: Any) -> int:
    sizes = {one.name: math.prod(one.dims) for inner in graphs(graph) for one in inner.initializer}
    nodes = (node for inner in graphs(graph) for node in inner.node)
    return sum(sizes.get(node.input[0], 0) for node in nodes if node.op_type == "DequantizeLinear")


def read_arrays(folder: str | os.PathLike) -> dict[str, Any]:
    """The arrays that a folder's file stores, by name."""
    onnx, helper = _package("onnx"), _package("onnx.numpy_helper")
    model = onnx.load(existing_file(folder))
    tensors = [(one.name, one) for one in model.graph.initializer]
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors += [(node.output[0], part.t) for part in node.attribute if part.HasField("t")]
    return {name: helper.to_array(tensor) for name, tensor in tensors}


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise UserError(
            f'{name.partition(".")[0]} is not installed; it comes with pip install "bertjax[export]".'
        ) from None
