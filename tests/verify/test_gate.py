"""The gate on real files: what does not depend on the mood of the clock."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.export import export
from bertjax.measure.latency import Latency, Percentiles, Timing
from bertjax.measure.onnx import FLOATS
from bertjax.metrics.scores import answers
from bertjax.text.tasks import Task
from bertjax.text.tokenizer import Tokenizer
from bertjax.verify import Bounds, Measured, compare, verdict
from bertjax.verify.__main__ import main
from bertjax.verify.comparison import agreement, columns, parity_with, renamed_agreement
from bertjax.verify.measured import Parity
from bertjax.verify.text import lines
from tests.model.tiny import tiny
from tests.verify.tiny import LABELS, VOCABULARY, WIDTH, arrays, stored_as_integers, write_data, write_onnx

pytest.importorskip("onnxruntime", reason="an extra")
ROOT = Path(bertjax.__file__).parent.parent
BANNED = ("jax", "flax", "torch", "transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return write_data(folder / "dev.tsv")


@pytest.fixture(scope="module")
def quick(folder: Path) -> Path:
    return write_onnx(folder / "quick", arrays())


def gate(code: str, argv: list[str], path: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environment, check=False
    )


def without_frameworks(argv: list[str], path: Path) -> subprocess.CompletedProcess:
    """`python -m bertjax.verify`, where nobody imports a framework: not the process itself, which prints what it has,
    nor one it starts, where a false framework leaves its name."""
    for name in BANNED:
        leaves_its_name = f"import pathlib\npathlib.Path({str(path)!r}, 'found_{name}').touch()\nraise ImportError"
        (path / f"{name}.py").write_text(leaves_its_name)
    code = f"""
import runpy, sys
try:
    runpy.run_module("bertjax.verify", run_name="__main__")
finally:
    print("loaded:", [name for name in {BANNED} if name in sys.modules])
"""
    done = gate(code, argv, path)
    assert done.stdout.endswith("loaded: []\n"), done.stderr
    assert list(path.glob("found_*")) == []
    return done


@pytest.mark.slow
def test_a_copy_passes(folder: Path, quick: Path, data: Path, tmp_path):
    copy = write_onnx(folder / "copy", arrays())
    argv = [str(copy), "--against", str(quick), f"--data={data}", "--max-drop=1", "--max-mb=1"]
    done = without_frameworks(argv, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accepted: every given bound" in done.stdout
    assert "predict the same for 100.00% of the texts" in done.stdout
    assert "90.00 (8" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="an extra")
def test_a_copy_passes_in_openvino_and_is_held_against_onnx_runtime(folder: Path, quick: Path, data: Path, tmp_path):
    copy = write_onnx(folder / "another", arrays())
    argv = [str(copy), "--against", str(quick), f"--data={data}", "--max-drop=1", "--runtime=openvino"]
    done = without_frameworks(argv, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"NEW: .* \(openvino 20\S+\)", done.stdout)
    assert re.search(
        r"NEW in onnxruntime: logits differ from those in openvino by at most \S+; the same predictions for 100.00% of",
        done.stdout,
    )


@pytest.mark.slow
def test_an_int8_file_that_is_slower_than_its_float_file_is_refused_and_told_why(folder: Path, data: Path, tmp_path):
    """A quarter of the bytes and every answer the same, but the word table stands behind a DequantizeLinear, as tools
    leave it that quantise whatever they find: each call widens all of it to read a dozen rows."""
    rare = np.zeros((20_000, WIDTH), np.float32)
    large = arrays()
    large["table"] = np.concatenate([large["table"], rare])
    old = write_onnx(folder / "large", large)
    new = stored_as_integers(old, folder / "large-int8", ("turn", "table"))
    argv = [str(new), "--against", str(old), f"--data={data}", "--min-speedup=1", "--max-drop=1", "--max-mb=6"]
    done = without_frameworks(argv, tmp_path)
    assert done.returncode == 3, done.stderr
    (refused,) = [line for line in done.stdout.splitlines() if line.startswith("refused: ")]
    found = re.search(r"NEW is (\S+) times as fast as OLD; the bound is at least 1 times", refused)
    assert found is not None, refused
    assert float(found[1]) < 0.5  # about 0.03: no mood of the clock
    assert "likely cause: 100% of NEW's weights are stored as integers, and every call converts them" in done.stdout
    assert "predict the same for 100.00% of the texts" in done.stdout


@pytest.mark.slow
def test_a_slow_large_wrong_and_boasting_model_is_refused_for_each(folder: Path, quick: Path, data: Path, tmp_path):
    spoilt = arrays(30)
    spoilt["head"] = spoilt["head"][:, :1] * np.ones(2, np.float32)
    slow = write_onnx(folder / "slow", spoilt)
    (slow / "report.json").write_text(json.dumps({"score": 0.99, "speed_up": 5, "size_bytes": 100_000}))
    code = "from bertjax.cli import main; main()"
    argv = [
        "verify",
        str(slow),
        f"--against={quick}",
        f"--data={data}",
        "--min-speedup=2",
        "--max-drop=1",
        "--max-mb=1",
    ]
    done = gate(code, argv, tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("refused: ") == 6
    for said in (
        "the score fell",
        "the bound is at least 2 times",
        "is at most 1 MB",
        "NEW predicts the same for every text",
    ):
        assert said in done.stdout
    for claim in ("score of 99.0", "speed-up of 5.00", "size of 100 kB"):
        assert f"report.json claims a {claim}" in done.stdout


@pytest.fixture
def timeless(monkeypatch) -> None:
    """Every model takes a millisecond."""
    both = Percentiles(1.0, 1.0)

    def measured(candidates: Any, *texts: Any, **options: Any) -> dict[str, Timing]:
        assert set(candidates) == {"OLD", "NEW"}
        about = "cpu", 1, {}, Latency(both, both), 1000.0
        return {name: Timing(one.runtime, *about) for name, one in candidates.items()}

    monkeypatch.setattr("bertjax.verify.comparison.measure_latency", measured)


def compared(new: Path, old: Path, data: Path, **more: Any) -> Measured:
    return compare(new, old, str(data), Task(), **more)


def test_classes_are_matched_by_name(folder: Path, quick: Path, data: Path, timeless: None):
    """The same model with its outputs the other way round, once with names that follow and once without."""
    transpose = arrays()
    transpose |= {"head": transpose["head"][:, ::-1].copy(), "bias": transpose["bias"][::-1].copy()}
    named = compared(write_onnx(folder / "named", transpose, LABELS[::-1]), quick, data)
    assert (named.agreement, named.renamed, named.change) == (1.0, None, 0.0)
    assert named.new.score == named.old.score == 0.9
    wrong = compared(write_onnx(folder / "wrong", transpose), quick, data)
    assert (wrong.agreement, wrong.renamed) == (0.0, 1.0)
    np.testing.assert_allclose(wrong.change, -80)
    low, high = wrong.difference
    assert low < -0.8 < high < 0
    assert wrong.p_value < 1e-6


def test_columns_are_put_into_the_order_of_the_task():
    task = Task(kind="classification", labels=("a", "b", "c"))
    order = columns(task, {0: "c", 1: "a", 2: "b"}, Path("x"))
    assert [("c", "a", "b")[column] for column in order] == ["a", "b", "c"]
    assert columns(task, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, Path("x")) == [0, 1, 2]
    assert columns(Task(kind="regression"), {0: "score"}, Path("x")) == [0]


def test_a_number_for_each_text_is_compared_by_correlation(folder: Path, tmp_path, timeless: None):
    one = arrays()
    one |= {"head": one["head"][:, 1:], "bias": one["bias"][1:]}
    words, scores = ("good", "bad", "film fine", "the plot", "poor film", "a film"), (0.9, -1.1, 1.2, 0.1, -0.8, 0.05)
    rows = "".join(f"{word}\t{score}\n" for word, score in zip(words, scores, strict=True))
    (tmp_path / "d.tsv").write_text(f"text\tlabel\n{rows}")
    model = write_onnx(folder / "number", one, ("score",))
    found = compared(model, model, tmp_path / "d.tsv")
    assert (found.metric, found.agreement, found.labels, found.new.answers) == ("pearson", None, None, None)
    assert found.new.score > 0.9


def test_other_tokenizers_and_shorter_models_are_seen(folder: Path, quick: Path, data: Path, timeless: None):
    other = write_onnx(folder / "other", arrays(), max_position_embeddings=10)
    tokens = (other / "vocab.txt").read_text().split()
    tokens[5], tokens[6] = tokens[6], tokens[5]
    (other / "vocab.txt").write_text("\n".join(tokens) + "\n")
    found = compared(other, quick, data)
    assert 0 < found.new.truncated < 120
    assert found.old.truncated == 0
    assert 0 < found.same_tokens < 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["nowhere", "--against=quick", "--data=dev.tsv"],
            "nowhere: expected onnx/model.onnx or a bundle",
        ),
        (
            ["quick", "--against=nowhere", "--data=dev.tsv"],
            "nowhere: expected onnx/model.onnx or a bundle",
        ),
        (["quick", "--against=quick", "--data=none.tsv"], "none.tsv"),
        (
            ["quick", "--against=quick", "--data=dev.tsv", "--repeats=2"],
            "needs at least 1 text and 3 repeats",
        ),
        (["quick", "--against=quick", "--data=dev.tsv", "--threads=0"], "threads is 0: expected 1 or more"),
        (["quick", "--against=quick", "--data=dev.tsv", "--label=txet"], 'did you mean "text"?'),
        (["classes", "--against=quick", "--data=dev.tsv"], "has other classes than OLD"),
        (["quick", "--against=quick", "--data=tags.conll", "--kind=tokens"], "the labels of the data and of quick"),
        (["quick", "--data=dev.tsv"], "required: --against"),
    ],
)
def test_what_cannot_be_measured_ends_with_code_two(folder, quick, data, argv, said, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    if argv[0] == "classes" and not Path("classes").exists():
        write_onnx(Path("classes"), arrays(), ("bad", "good", "so-so"))
    Path("tags.conll").write_text("good B-X\nfilm O\n\nbad B-X\n")
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_an_export_is_held_against_the_bundle_that_it_names_in_jax(folder: Path, data: Path, timeless: None):
    """A bundle that is OLD as well runs once."""
    model, params = tiny(vocab_size=len(VOCABULARY), max_position_embeddings=40, labels=LABELS)
    export = write_onnx(folder / "export", arrays(), bertjax={"bundle": "../bundle"})
    bertjax.save(bertjax.Bundle(model.config, params, Tokenizer.from_folder(export)), folder / "bundle")
    found = compared(export, folder / "bundle", data)
    assert (found.old.timing.runtime, found.old.graph, found.same_tokens) == ("jax", None, 1.0)
    assert found.parity is not None
    assert Path(found.parity.bundle) == folder / "bundle"
    assert found.parity.agreement == found.agreement
    assert found.parity.largest > 0.1


def test_a_folder_that_names_itself_is_held_against_nothing_and_says_so(
    folder: Path, quick: Path, data: Path, timeless
):
    vain = write_onnx(folder / "vain", arrays(), bertjax={"bundle": "."})
    found = compared(vain, quick, data)
    assert found.parity is None
    said = "\n".join(lines(found, []))
    assert "in JAX" not in said
    assert "names '.' as the bundle it was exported from, which is that folder itself: NEW was not compared" in said
    with pytest.raises(bertjax.UserError, match="is NEW itself"):
        compared(vain, quick, data, parity=vain)


def test_weights_in_a_file_called_report_weigh_what_they_weigh(folder: Path, quick: Path, data: Path, timeless: None):
    import onnx  # pyright: ignore[reportMissingImports]  (an extra)

    hidden = write_onnx(folder / "hidden", arrays(30))
    model = onnx.load(hidden / "model.onnx")
    onnx.save(model, hidden / "model.onnx", save_as_external_data=True, location="report.png")
    found = compared(hidden, quick, data)
    assert found.new.bytes == sum(file.stat().st_size for file in hidden.iterdir()) > 1e7
    (failure,) = verdict(found, Bounds(max_mb=1.0))
    assert "MB; the bound is at most 1 MB" in failure.what


@pytest.mark.slow
def test_a_file_with_one_corrupted_weight_is_refused(folder: Path, quick: Path, data: Path, timeless: None):
    """One bit of one number. Score, bytes and time have nothing against it: its digest has, and the bundle."""
    import onnx  # pyright: ignore[reportMissingImports]  (an extra)

    model, params = tiny(vocab_size=len(VOCABULARY), max_position_embeddings=40, labels=LABELS)
    bundle = bertjax.Bundle(model.config, params, Tokenizer.from_folder(quick))
    bertjax.save(bundle, folder / "whole")
    export(folder / "whole", "onnx", folder / "exported")
    assert verdict(compared(folder / "exported", quick, data), Bounds()) == []
    shutil.copytree(folder / "exported", folder / "corrupted")
    stored = onnx.load(folder / "corrupted" / FLOATS)
    (tensor,) = [one for one in stored.graph.initializer if one.name == "encoder/layer_0/ffn/output/kernel"]
    bits = np.frombuffer(tensor.raw_data, np.uint32).copy()
    bits[7] ^= 1 << 30  # the highest bit of the exponent
    tensor.raw_data = bits.tobytes()
    onnx.save(stored, folder / "corrupted" / FLOATS)
    with pytest.raises(
        bertjax.UserError, match="was changed after it was written: encoder/layer_0/ffn/output/kernel differs"
    ):
        compared(folder / "corrupted", quick, data)
    (folder / "corrupted" / "digests.json").unlink()
    (failure,) = verdict(compared(folder / "corrupted", quick, data), Bounds())
    assert failure.what.startswith(f"NEW's logits are not those of {folder / 'whole'} in JAX: they differ by")


def test_parity_is_the_largest_difference_and_the_share_of_equal_answers():
    new, ours = list(np.array([[0.0, 1.0], [2.0, 0.0]])), list(np.array([[0.5, 1.0], [-1.0, 0.0]]))
    assert parity_with("b", new, ours, 0.5, False) == Parity("b", 3.0, 4.0, 0.5)
    assert parity_with("b", new, ours, None, True) == Parity("b", 3.0, 7 / 3, None)
    assert parity_with("b", new, ours[:1], 0.5, True).distance == np.inf
    classes = Task("classification", labels=("a", "b", "c"))
    assert agreement("classification", *(answers("classification", np.stack(x)) for x in (new, ours))) == 0.5
    assert agreement("multi_label", *(answers("multi_label", np.stack(x)) for x in (new, ours))) == 0.0
    assert agreement("regression", new, ours) is None

    def other_order(new: list[int], old: list[int]) -> float | None:
        return renamed_agreement(classes, np.array(new), np.array(old))

    assert other_order([0, 0, 1, 1, 2], [1, 1, 0, 0, 2]) == 1.0
    assert other_order([0, 0, 0, 1, 1], [1, 1, 0, 0, 0]) == 0.8
    assert other_order([0, 0, 1, 1], [0, 0, 1, 0]) is None  # no other order
    assert other_order([0, 0, 1, 1], [0, 0, 0, 0]) is None  # no order at all
