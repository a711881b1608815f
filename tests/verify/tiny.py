"""Small classifiers written node by node as ONNX files: one that counts good and bad words, and ways to spoil it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ("good", "fine", "bad", "poor", "film", "plot", "the", "a")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
WIDTH = 256
LABELS = ("bad", "good")


def arrays(layers: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """A word's opinion in one direction, turned there and back again by pairs of square matrices."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    direction = rng.normal(size=WIDTH).astype(np.float32) / 16
    opinions = np.zeros(len(VOCABULARY), np.float32)
    opinions[[5, 6]], opinions[[7, 8]] = 1, -1
    noise = rng.normal(0, 0.002, (len(VOCABULARY), WIDTH)).astype(np.float32)
    found = {"table": np.outer(opinions, direction) + noise}
    found |= {f"turn_{i}": turn if i % 2 == 0 else turn.T.copy() for i in range(2 * layers)}
    return {**found, "head": np.stack([-direction, direction], axis=1), "bias": np.array([0.01, -0.01], np.float32)}


def write_onnx(folder: Path, arrays: dict[str, np.ndarray], labels: tuple[str, ...] = LABELS, **config: Any) -> Path:
    """A folder as an export leaves it."""
    import onnx  # pyright: ignore[reportMissingImports]  (an extra)
    from onnx import TensorProto, helper, numpy_helper  # pyright: ignore[reportMissingImports]

    folder.mkdir(parents=True)
    given = {**arrays, "last": np.array([2], np.int64), "tokens": np.array([1], np.int64)}
    turns = [name for name in arrays if name.startswith("turn")]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x0"])]
    nodes += [helper.make_node("MatMul", [f"x{i}", turn], [f"x{i + 1}"]) for i, turn in enumerate(turns)]
    nodes += [
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["column"]),
        helper.make_node("Mul", [f"x{len(turns)}", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["scored"]),
        helper.make_node("Add", ["scored", "bias"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "l"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", len(labels)])
    stored = [numpy_helper.from_array(array, name) for name, array in given.items()]
    graph = helper.make_graph(nodes, "classifier", inputs, [output], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    names = {str(number): name for number, name in enumerate(labels)}
    described = {"model_type": "bertjax", "id2label": names, "max_position_embeddings": 64, **config}
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


def write_data(path: Path, rows: int = 120) -> Path:
    """Texts of several lengths; the label is the opinion of the one word that has any, but for every tenth."""
    rng = np.random.default_rng(1)
    lines = ["text\tlabel"]
    for row in range(rows):
        word, filler = rng.integers(4), rng.choice(WORDS[4:], rng.integers(3, 20))
        label = LABELS[int((word < 2) != (row % 10 == 0))]
        lines.append(f"{' '.join([*filler, WORDS[word]])}\t{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def stored_as_integers(source: Path, target: Path, what: tuple[str, ...] = ("turn",)) -> Path:
    """The folder with the square matrices (or `what` begins so) as eight bits, turned back into floats before each
    product."""
    import onnx  # pyright: ignore[reportMissingImports]  (an extra)
    from onnx import helper, numpy_helper  # pyright: ignore[reportMissingImports]

    shutil.copytree(source, target)
    model = onnx.load(target / "model.onnx")
    stored = {one.name: one for one in model.graph.initializer if one.name.startswith(what)}
    for name, tensor in stored.items():
        array = numpy_helper.to_array(tensor)
        step = np.abs(array).max() / 127
        parts = {f"{name}_q": np.round(array / step).astype(np.int8), f"{name}_s": np.float32(step)}
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(part), key) for key, part in parts.items())
        model.graph.node.insert(0, helper.make_node("DequantizeLinear", list(parts), [name]))
    onnx.save(model, target / "model.onnx")
    return target
