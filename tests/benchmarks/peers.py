"""Our files beside what ONNX Runtime, OpenVINO and PyTorch make of the same model, on this machine.

    bertjax quantize --model=MODEL --data.train=train.tsv --data.eval=dev.tsv --out=runs/int8
    bertjax export --model=MODEL --out=runs/float; bertjax export --model=runs/int8/bundle --out=runs/int8_file
    python -m tests.benchmarks.peers MODEL runs/float runs/int8_file --data=dev.tsv --calibration=train.tsv --out=FILE

MODEL is a folder that plain transformers opens. Each framework runs in a process of its own, they take turns, and the
median of the repeats counts. Rows are full: 32 and 128 tokens exactly, one text at a time and 32 together, on one
thread and on two. Scores are on the given sentences, with a paired comparison to the float file in ONNX Runtime. Needs
the extras export, openvino and parity, and nncf. What is measured is kept in WORK, from where the same command goes on.
"""

import argparse
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.machine.processor import integer_products, processor_features, processor_name, thread_count
from bertjax.measure.latency import measure_latency
from bertjax.measure.onnx import BESIDE, INPUTS, longest_input, onnx_file
from bertjax.measure.openvino import OpenVinoSession, package
from bertjax.measure.outputs import measure_outputs
from bertjax.measure.processes import Candidate
from bertjax.measure.worker import OnnxFile, padded
from bertjax.metrics.scores import score
from bertjax.metrics.uncertainty import paired_difference_interval, paired_p_value
from bertjax.storage import manifest
from bertjax.text.encode import encode_examples, sentence_labels
from bertjax.text.examples import chosen_by_text
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Task, align_labels
from bertjax.text.tokenizer import Tokenizer
from bertjax.verify.folder import classes_of
from tests.benchmarks.exported import exactly

BASE = "float32 file, ONNX Runtime"
COMPILED = "PyTorch, torch.compile"
MANY = 32
"""Texts of a full batch (`bertjax.measure.worker`)."""


class OpenVinoFile(OnnxFile):
    """A model in OpenVINO's own format, in the place of the ONNX file."""

    def __init__(self, path: str, texts: Any, pairs: Any, max_length: int):
        super().__init__(path, texts, pairs, max_length, "openvino")
        self.session = OpenVinoSession(str(Path(path) / "model.xml"), thread_count())
        self.versions |= {"nncf": version("nncf")}


class Eager:
    """A bundle in transformers on PyTorch, float32."""

    name = "torch"

    def __init__(self, path: str, texts: Any, pairs: Any, max_length: int):
        import torch
        import transformers

        torch.set_num_threads(thread_count())
        self.torch, self.tokenizer = torch, Tokenizer.from_folder(path)
        self.model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
        self.model.eval()
        self.max_length = min(max_length, longest_input(path))
        self.device, self.versions = f"cpu: {processor_name()}", {"torch": torch.__version__.partition("+")[0]}

    def encode(self, texts: Any, pairs: Any) -> Any:
        encodings = self.tokenizer.encode(texts, pairs, self.max_length, spans=False)
        return self.pad(encodings.ids, encodings.type_ids)

    def pad(self, ids: Any, type_ids: Any) -> Any:
        arrays = padded(ids, type_ids, max(map(len, ids)), self.tokenizer.pad_id, np.int64)
        return [self.torch.from_numpy(array) for array in arrays]

    def forward(self, inputs: Any) -> Any:
        with self.torch.inference_mode():
            return self.model(**dict(zip(INPUTS, inputs, strict=True))).logits.numpy()


class Compiled(Eager):
    """The same with torch.compile, its weights frozen into the program, which is compiled for each shape."""

    def __init__(self, path: str, texts: Any, pairs: Any, max_length: int):
        super().__init__(path, texts, pairs, max_length)
        import torch._inductor.config

        torch._inductor.config.freezing = True
        self.model = self.torch.compile(self.model, dynamic=False)


def frameworks(given: argparse.Namespace) -> dict[str, Candidate]:
    """What is measured, the base first; files that are made of the float file lie in WORK."""
    here, integers = "tests.benchmarks.peers", f"int8 file, {bits_of(given.int8)}"
    made = {BASE: Candidate("onnxruntime", given.float), "float32 file, OpenVINO": Candidate("openvino", given.float)}
    made[f"{integers}, ONNX Runtime"] = Candidate("onnxruntime", given.int8)
    made[f"{integers}, OpenVINO"] = Candidate("openvino", given.int8)
    for name, reduced in (("`quantize_dynamic`", False), ("the same, 7 bits (`reduce_range`)", True)):
        made[name] = Candidate("onnxruntime", dynamic(given.float, given.work / f"dynamic_{int(reduced)}", reduced))
    if not given.without_nncf:
        made["NNCF int8, OpenVINO"] = Candidate(f"{here}:OpenVinoFile", post_training(given, given.work / "nncf"))
    made["PyTorch, eager"] = Candidate(f"{here}:Eager", given.model)
    return made | {COMPILED: Candidate(f"{here}:Compiled", given.model)}


def bits_of(folder: Path) -> str:
    """The bits of an exported folder's kernels, as in its config."""
    formats = json.loads((folder / "config.json").read_text())["bertjax"]["quantization"]["weights"]
    return f"{min(format['bits'] for path, format in formats if path.endswith('kernel'))} bits"


def copied(source: Path, target: Path) -> Path:
    """A copy without its ONNX file, whose place another file takes."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    onnx_file(target).unlink()
    (target / manifest.FILE).unlink(missing_ok=True)
    return target


def dynamic(source: Path, target: Path, reduced: bool) -> Path:
    """ONNX Runtime's dynamic quantisation, per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if not (target / BESIDE).is_file():
        given, made = str(onnx_file(source)), str(copied(source, target) / BESIDE)
        quantize_dynamic(given, made, per_channel=True, weight_type=QuantType.QInt8, reduce_range=reduced)
    return target


def post_training(given: argparse.Namespace, target: Path) -> Path:
    """NNCF's post-training quantisation of the float file for OpenVINO, with its settings for transformers: smooth
    quantisation and bias correction included."""
    if (target / "model.xml").is_file():
        return target
    openvino = package()
    import nncf  # pyright: ignore[reportMissingImports]  (no extra)

    rows = OnnxFile(str(given.float), [], None, given.max_length)
    texts = load_examples(given.calibration, infer_task(given.calibration, Task()), "train").texts[: given.examples]
    names = [one.name for one in rows.session.get_inputs()]
    batches = [dict(zip(INPUTS, rows.encode([text], None), strict=True)) for text in texts]
    dataset = nncf.Dataset([{name: batch[name] for name in names} for batch in batches])
    model = openvino.Core().read_model(str(onnx_file(given.float)))
    model = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts))
    made = copied(given.float, target)
    shutil.copy(onnx_file(given.float), made / BESIDE)  # which is opened for its tokens and names, and not timed
    openvino.save_model(model, str(made / "model.xml"), compress_to_fp16=False)
    return made


def scores(given: argparse.Namespace, candidates: dict[str, Candidate]) -> dict[str, Any]:
    """For each framework, the score in points, the number of labels that differ from the base's, and the 95 % interval
    of the paired difference with its p."""
    task = align_labels(infer_task(given.data, Task()), classes_of(given.float), str(given.float))
    examples = chosen_by_text(load_examples(given.data, task, "test", labelled=True), given.sentences)
    scored = {
        name: one for name, one in candidates.items() if name != COMPILED
    }  # eager's numbers, and a program a length
    encoded = encode_examples(examples, task, Tokenizer.from_folder(given.float), given.max_length)
    settings: Any = {"max_length": given.max_length, "notify": note}
    logits = measure_outputs(scored, examples, dict.fromkeys(scored, encoded), **settings)
    labels = {name: np.stack(rows).argmax(axis=-1) for name, rows in logits.items()}
    gold, base = np.asarray(sentence_labels(examples, task)).astype(int), labels[BASE]
    return {
        name: {
            "score": 100 * score(task.metric, found, gold),
            "changed": int(np.sum(found != base)),
            "interval": [100 * end for end in paired_difference_interval(task.metric, found, base, gold)],
            "p": paired_p_value(task.metric, found, base, gold),
            "largest": float(np.abs(np.stack(logits[name]) - np.stack(logits[BASE])).max()),
        }
        for name, found in labels.items()
    }


def times(given: argparse.Namespace, candidates: dict[str, Candidate], length: int, threads: int) -> dict[str, Any]:
    """For each framework, the milliseconds of one text and of 32, and its versions."""
    texts = [exactly(Tokenizer.from_folder(given.float), length)] * 8
    settings: Any = {"threads": threads, "repeats": given.repeats, "notify": note, "timeout_s": 900.0}
    found = measure_latency(candidates, texts, **settings)
    return {
        name: {
            "one": timing.latency.batch_1.p50,
            "many": 1000 * MANY / timing.throughput_per_s,
            "versions": dict(timing.versions),
        }
        for name, timing in found.items()
    }


def note(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def kept(path: Path, measure: Any) -> dict[str, Any]:
    """What a file holds, or what is measured now and written there."""
    if not path.is_file():
        path.write_text(json.dumps(measure(), indent=1) + "\n")
    return json.loads(path.read_text())


def table(given: argparse.Namespace, timed: dict[str, Any], scored: dict[str, Any]) -> dict[str, Any]:
    """The numbers as a table of docs/results."""
    columns = {
        f"{shape}, {rows}": (shape, key) for shape in timed for rows, key in (("one text", "one"), ("32", "many"))
    }
    by_name = next(iter(timed.values()))
    rows = []
    for name in by_name:
        found = scored.get(name, {})
        ends = found.get("interval")
        change = None if name == BASE or ends is None else f"{ends[0]:+.1f} to {ends[1]:+.1f}, p = {found['p']:.2g}"
        milliseconds = [timed[shape][name][key] for shape, key in columns.values()]
        score = None if not found else f"{found['score']:.1f}"
        differ = None if not found else f"{found['changed']} ({found['largest']:.2g})"
        rows.append([name, *milliseconds, score, differ, change])
    versions = {key: value for found in by_name.values() for key, value in found["versions"].items()}
    return {
        "title": f"milliseconds of {given.model.name} in several runtimes",
        "command": (
            f"python -m tests.benchmarks.peers MODEL FLOAT INT8 --data={Path(given.data).name} "
            f"--calibration={Path(given.calibration).name} --repeats={given.repeats}"
        ),
        "seed": "none: nothing is drawn",
        "processor": f"{processor_name()}; {integer_products(processor_features())}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "formats": dict.fromkeys(columns, "count"),
        "columns": ["framework", *columns, "score", "other labels (largest difference of a logit)", "change"],
        "left": ["framework"],
        "rows": rows,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "float", "int8"):
        parser.add_argument(name, type=Path)
    for name in ("data", "calibration"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/peers"))
    for name, default in (("lengths", [32, 128]), ("threads", [1, 2])):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    for name, default in (("sentences", 10_000), ("examples", 300), ("max_length", 64), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--without_nncf", action="store_true")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    given.work.mkdir(parents=True, exist_ok=True)
    candidates = frameworks(given)
    scored = kept(given.work / "scores.json", lambda: scores(given, candidates))
    timed = {
        f"{length} tokens, {threads} thread{'s' * (threads > 1)}": kept(
            given.work / f"times_{length}_{threads}.json", lambda n=length, t=threads: times(given, candidates, n, t)
        )
        for threads in given.threads
        for length in given.lengths
    }
    given.out.write_text(json.dumps(table(given, timed, scored), indent=2) + "\n")


if __name__ == "__main__":
    main()
