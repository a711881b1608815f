"""How fast and how good is an exported int8 model beside what ONNX Runtime makes of the same float file?

    python -m tests.benchmarks.exported FLOAT INT8 [OTHER ...] --data=dev.tsv [--max_length=64] [--repeats=5]

FLOAT, INT8 and others (int8 with kernels of 8 bits, for one) are folders of `bertjax export`. Beside them stand the
float file after `onnxruntime.transformers`' optimiser and after `quantize_dynamic` (per channel, signed weights, with
and without `reduce_range`, which means 7 bits). Each file runs in a process of its own, they take
turns, and ratios are taken within each repeat: its median, lowest and highest. At the real lengths of the texts and at
32 and 128 tokens exactly, with one thread and with two. Texts per second are those of batches of 32. Scores are on all
texts, with a paired test.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.machine.processor import integer_products, processor_features, processor_name
from bertjax.measure.latency import Timing, measure_latency
from bertjax.measure.onnx import BESIDE, onnx_file
from bertjax.measure.outputs import measure_outputs
from bertjax.measure.processes import Candidate
from bertjax.metrics.scores import score
from bertjax.metrics.uncertainty import paired_difference_interval, paired_p_value
from bertjax.storage import manifest
from bertjax.text.encode import encode_examples, sentence_labels
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Task, align_labels
from bertjax.text.tokenizer import Tokenizer
from bertjax.verify.folder import classes_of, config_of

OURS = "int8"


def folders(given: argparse.Namespace, temporary: Path) -> dict[str, Path]:
    """The frameworks, each an exported folder."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    names = ("float, optimised", "quantize_dynamic", "the same, reduced")
    made = {name: temporary / name.replace(" ", "-") for name in names}
    for folder in made.values():
        shutil.copytree(given.float, folder)
        onnx_file(folder).unlink()
        (folder / manifest.FILE).unlink(missing_ok=True)  # what is put there now is another file
    source, config = str(onnx_file(given.float)), config_of(given.float)
    sizes = {"num_heads": config["num_attention_heads"], "hidden_size": config["hidden_size"]}
    optimised = optimizer.optimize_model(source, model_type="bert", **sizes)
    optimised.save_model_to_file(str(made[names[0]] / BESIDE))
    for name, reduced in zip(names[1:], (False, True), strict=True):
        target, kind = str(made[name] / BESIDE), QuantType.QInt8
        quantize_dynamic(source, target, per_channel=True, weight_type=kind, reduce_range=reduced)
    others = {folder.name: folder for folder in given.others}
    return {"float": given.float, "float, optimised": made[names[0]], OURS: given.int8, **others, **made}


def exactly(tokenizer: Tokenizer, length: int) -> str:
    """A text of so many tokens, special ones included."""
    words = ["film"]
    while len(tokenizer.encode([" ".join(words)], None, 512, spans=False).ids[0]) < length:
        words.append("film")
    return " ".join(words)


def show(title: str, timings: dict[str, Timing]) -> None:
    print(f"\n{title}")
    ours = np.array(timings[OURS].repeats)
    for name, timing in timings.items():
        ratios = np.array(timing.repeats) / ours
        print(
            f"  {name:<18} {timing.latency.batch_1.p50:7.2f} ms   {timing.throughput_per_s:7.0f} texts/s   "
            f"{np.median(ratios):.2f} times ours [{ratios.min():.2f}, {ratios.max():.2f}]"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("others", type=Path, nargs="*")
    parser.add_argument("--data", required=True)
    parser.add_argument("--max_length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    task = align_labels(infer_task(given.data, Task()), classes_of(given.int8), str(given.int8))
    examples = load_examples(given.data, task, "test", labelled=True)
    tokenizer = Tokenizer.from_folder(given.int8)
    with tempfile.TemporaryDirectory() as temporary:
        candidates = {
            name: Candidate("onnxruntime", folder) for name, folder in folders(given, Path(temporary)).items()
        }
        common: Any = {"max_length": given.max_length}
        encoded = encode_examples(examples, task, tokenizer, given.max_length)
        logits = measure_outputs(candidates, examples, dict.fromkeys(candidates, encoded), **common)
        said = {name: np.stack(rows).argmax(axis=-1) for name, rows in logits.items()}
        gold = np.asarray(sentence_labels(examples, task)).astype(int)
        print(f"{len(gold)} texts of {given.data}; {processor_name()}, {integer_products(processor_features())}")
        for name, answers in said.items():
            difference = [100 * end for end in paired_difference_interval(task.metric, answers, said["float"], gold)]
            print(
                f"  {name:<18} {task.metric} {100 * score(task.metric, answers, gold):.2f}, against float "
                f"[{difference[0]:+.2f}, {difference[1]:+.2f}], p = "
                f"{paired_p_value(task.metric, answers, said['float'], gold):.2g}, against ours p = "
                f"{paired_p_value(task.metric, answers, said[OURS], gold):.2g}"
            )
        for threads in (1, 2):
            common = {"repeats": given.repeats, "threads": threads}
            real = measure_latency(candidates, examples.texts, max_length=given.max_length, **common)
            show(f"real lengths, {threads} thread(s)", real)
            for length in (32, 128):
                texts = [exactly(tokenizer, length)] * 32
                show(f"{length} tokens, {threads} thread(s)", measure_latency(candidates, texts, **common))


if __name__ == "__main__":
    main()
