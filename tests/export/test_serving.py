"""The programs in docs/ answer from an exported folder as the bundle does, where there is no bertjax."""

import dataclasses
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

import bertjax
from bertjax.export import export
from bertjax.measure.worker import padded
from bertjax.model import ExitRule, Exits, Halting, Recurrence, Retention
from bertjax.predict import Predictions
from tests.model.tiny import apply, tiny
from tests.train.tiny import BAD, FILLER, GOOD, ROOT, write_model, write_roberta

pytest.importorskip("onnxruntime", reason="an extra")
TEXTS = ["a fine film", "the cast and its dull story, very dull", "warm", " ".join((*FILLER, *GOOD, *BAD) * 2)]
MISSING = {"onnx": ("bertjax", "jax", "flax", "transformers"), "stablehlo": ("bertjax", "flax", "transformers")}
if find_spec("openvino") is not None:  # an extra
    MISSING["openvino"] = (*MISSING["onnx"], "onnxruntime", "openvino_telemetry")
TARGETS: dict[str, Any] = {"openvino": "onnx"}
NAMES = ("input_ids", "attention_mask", "token_type_ids")
LABELS: dict[str, Any] = {"architecture": "BertForSequenceClassification", "labels": ("rotten", "fresh", "neither")}
HALTING = {"num_hidden_layers": 1, "recurrence": Recurrence(5, halting=Halting(bias=0.0))}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "exits": {"exits": Exits((0, 1)), "num_hidden_layers": 3},
    "fewer tokens": {"retention": Retention((0.6, 0.3))},
    "exits and fewer tokens": {"exits": Exits((0,), reads="mean"), "retention": Retention((0.6, 0.3))},
    "halting": HALTING,
}


def write(folder: Path, name: str) -> Path:
    """A model of random numbers that does not give all texts one label, nor, with exits, lets them all exit at one."""
    whole = bertjax.load(write_model(folder, **LABELS | MODELS[name]))
    model, params = tiny(**LABELS | MODELS[name], vocab_size=whole.config.vocab_size, max_position_embeddings=24)
    config = model.config
    assert whole.tokenizer is not None
    rows = whole.tokenizer.encode(TEXTS, None, config.max_tokens, spans=False)
    output = apply(model, params, dict(zip(NAMES, padded(rows.ids, rows.type_ids, 24, 0, np.int32), strict=True)))
    params["classifier"]["bias"] -= np.mean(output.logits, axis=0)
    if config.exits:
        sure = np.sort(np.max(softmax(np.stack(output.exit_logits), axis=-1), axis=-1), axis=None)
        widest = int(np.argmax(np.diff(sure)))
        rule = ExitRule("max_probability", float(sure[widest : widest + 2].mean()))
        config = config.replace(exits=dataclasses.replace(config.exits, exit_rule=rule))
    bertjax.save(dataclasses.replace(whole, config=config, params=params), folder)
    return folder


def served(to: str, folder: Path, missing: tuple[str, ...]) -> list[list[str]]:
    """What the program prints for the texts, line by line."""
    program = ROOT / "docs" / f"serve_{to}.py"
    code = f"""
import runpy, sys
sys.modules |= dict.fromkeys({missing}, None)
sys.argv = {[str(program), str(folder), *TEXTS]}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def as_lines(said: Predictions) -> list[list[str]]:
    depths = [[f"after {depth} layers"] for depth in said.depths] if said.depths else [[] for _ in TEXTS]
    return [[label, *depth, text] for label, depth, text in zip(said.labels, depths, TEXTS, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("to", MISSING)
@pytest.mark.parametrize("name", MODELS)
def test_a_program_prints_what_the_bundle_predicts(name: str, to: Any, tmp_path: Path):
    folder = write(tmp_path / "model", name)
    said = bertjax.load(folder).predict(TEXTS)
    assert said.truncated == 1
    assert len(set(said.labels)) > 1 or len(set(said.depths or ())) > 1, "all the same: the test would show nothing"
    export(folder, TARGETS.get(to, to), tmp_path / "out")
    assert served(to, tmp_path / "out", MISSING[to]) == as_lines(said)


@pytest.mark.slow
@pytest.mark.parametrize("to", MISSING)
def test_a_program_knows_tokenizers_whose_padding_is_not_0(to: Any, tmp_path: Path):
    given = {"architecture": "RobertaForSequenceClassification", "labels": ("rotten", "fresh", "neither")}
    folder = write_roberta(tmp_path / "model", **given)
    said = bertjax.load(folder).predict(TEXTS)
    export(folder, TARGETS.get(to, to), tmp_path / "out")
    assert served(to, tmp_path / "out", MISSING[to]) == as_lines(said)


@pytest.mark.parametrize("to", MISSING)
def test_a_program_has_at_most_25_lines(to: str):
    assert len((ROOT / "docs" / f"serve_{to}.py").read_text(encoding="utf-8").splitlines()) <= 25
