"""`quantize` as a user runs it: a folder in, a smaller folder out, cut and continued."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax import UserError
from bertjax.distill.terms import HardLabels
from bertjax.jobs.mixed_precision import stored_size
from bertjax.model.huggingface import read_tensors
from bertjax.params import flatten
from bertjax.quantize import Format, Quantized, tables
from bertjax.quantized.formats import TABLE
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.share import prune_vocabulary
from tests.train.tiny import metrics, run, weights, write_model, write_table
from train import finetune, quantize


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quantize")
    write_model(folder / "model")
    write_table(folder / "train.tsv", 96)
    write_table(folder / "eval.tsv", 60, seed=1)
    data = Data(train=str(folder / "train.tsv"), eval=str(folder / "eval.tsv"), max_length=16)
    recipe = {"steps": 60, "batch_size": 8, "optimiser": Optimiser(learning_rate=0.01)}
    finetune.main(finetune.Config(model=str(folder / "model"), data=data, out=str(folder / "float"), **recipe))
    return folder


def flags(work: Path, out: str, *more: str) -> list[str]:
    data = [f"--data.train={work / 'train.tsv'}", f"--data.eval={work / 'eval.tsv'}", "--data.max_length=16"]
    return [f"--model={work / 'float' / 'bundle'}", *data, f"--out={work / out}", *more]


@pytest.mark.slow
def test_a_model_is_quantised_without_training(work: Path):
    done = run("quantize", *flags(work, "int8"))
    assert "accuracy" in done.stderr + done.stdout
    before, after = bertjax.load(work / "float" / "bundle"), bertjax.load(work / "int8" / "bundle")
    size = [(work / name / "bundle" / "model.safetensors").stat().st_size for name in ("float", "int8")]
    assert size[1] < 0.6 * size[0]
    texts = ["the film a fine story", "its music and cast very dull often"]
    assert after.predict(texts).labels == before.predict(texts).labels
    assert after.config.quantization is not None
    sites = [site for site, activation in after.config.quantization.activations if activation.low is not None]
    assert len(sites) == 2 * 6 + 1  # six products of a layer, and the pooler
    record = json.loads((work / "int8" / "run.json").read_text())
    assert record["result"]["accuracy"] == json.loads((work / "float" / "run.json").read_text())["result"]["accuracy"]


def quantised(work: Path, out: str, **recipe) -> None:
    """Runs the script in this process."""
    data = Data(train=str(work / "train.tsv"), eval=str(work / "eval.tsv"), max_length=16)
    config = quantize.Config(
        model=str(work / "float" / "bundle"), data=data, batch_size=8, out=str(work / out), **recipe
    )
    quantize.main(config)


@pytest.mark.slow
def test_a_run_that_was_cut_ends_with_the_same_bits(work: Path):
    """Learned scales are trained and do not ship, so they have to be in the checkpoint."""
    recipe = {"qat": "lsq", "save_every": 3, "steps": 6, "optimiser": Optimiser(learning_rate=0.001)}
    quantised(work, "straight", **recipe)
    shutil.copytree(work / "straight", work / "cut")
    for gone in ("checkpoints/6", "bundle"):
        shutil.rmtree(work / "cut" / gone)
    record = json.loads((work / "cut" / "run.json").read_text())
    (work / "cut" / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k != "result"}))
    quantised(work, "cut", **recipe)
    assert weights(work / "cut") == weights(work / "straight")
    assert [line["step"] for line in metrics(work / "cut") if line.get("event") in ("start", "restart")] == [0, 3]


@pytest.mark.slow
def test_mixed_bits_are_learned_in_place(work: Path):
    rules = (
        (r"embeddings/word/embedding", Format(4, block_rows=1, block_cols=None)),
        (r"layer_0/.*kernel", Format(2, "asymmetric", block_cols=4)),
        (r"layer_1/.*kernel", Format(scheme="ternary")),
    )
    rate = Optimiser(learning_rate=0.005)
    quantised(work, "mixed", weights=rules, activations="token", qat="ste", delay=0.5, steps=40, optimiser=rate)
    losses = [line["loss"] for line in metrics(work / "mixed") if "loss" in line]
    rounded, *later = losses[1:]  # every tenth step: rounding sets in at the twentieth
    assert losses[0] < 0.5 * rounded
    assert max(later) < 0.8 * rounded
    leaves = flatten(bertjax.load(work / "mixed" / "bundle").params)
    levels = {p: len(np.unique(x.values)) for p, x in leaves.items() if isinstance(x, Quantized) and "layer_1" in p}
    assert len(levels) == 6
    assert set(levels.values()) <= {2, 3}
    score = json.loads((work / "mixed" / "run.json").read_text())["result"]["accuracy"]
    assert score == json.loads((work / "float" / "run.json").read_text())["result"]["accuracy"]


@pytest.mark.slow
def test_a_quantised_model_is_not_quantised_again(work: Path):
    if not (work / "int8").exists():
        run("quantize", *flags(work, "int8"))
    given = [flag for flag in flags(work, "twice") if not flag.startswith("--model")]
    done = run("quantize", f"--model={work / 'int8' / 'bundle'}", *given, check=False)
    assert done.returncode == 2
    assert "is quantised already; begin with the model in floating point" in done.stderr


@pytest.mark.slow
def test_a_quantised_model_is_not_trained_by_scripts_that_know_no_integers(work: Path):
    if not (work / "int8").exists():
        run("quantize", *flags(work, "int8"))
    given = [flag for flag in flags(work, "tuned", "--steps=2") if not flag.startswith("--model")]
    done = run("finetune", f"--model={work / 'int8' / 'bundle'}", *given, check=False)
    assert done.returncode == 2
    assert "weights are integers" in done.stderr


def test_a_teacher_has_a_trained_head_and_the_same_tokenizer(work: Path):
    """Else its answers would be random numbers, or its ids would mean other words."""
    with pytest.raises(UserError, match="has no trained head to learn from"):
        quantised(work, "untaught", qat="ste", steps=1, teacher=str(write_model(work / "bare")))
    fewer = prune_vocabulary(bertjax.load(work / "float" / "bundle"), ["the fine film"])
    bertjax.save(fewer, work / "fewer")
    with pytest.raises(UserError, match="fewer has another vocabulary than"):
        quantised(work, "taught", qat="ste", steps=1, teacher=str(work / "fewer"))


@pytest.mark.slow
@pytest.mark.parametrize("qat", ["off", "ste"])
def test_the_word_table_takes_no_more_than_was_asked_for(work: Path, qat: Any, monkeypatch):
    config = bertjax.load(work / "float" / "bundle").config
    monkeypatch.setattr(tables, "FORMATS", (TABLE,))  # of 25 words, fewer bits are always smaller than a projection
    most = tables.stored_bytes(config.vocab_size, 4, config.hidden_size, TABLE)
    quantised(work, f"table-{qat}", word_table_mb=most / 1e6, qat=qat, steps=2)
    bundle = bertjax.load(work / f"table-{qat}" / "bundle")
    tensors = read_tensors(work / f"table-{qat}" / "bundle")
    assert sum(array.nbytes for name, array in tensors.items() if ".word_" in name) <= most
    assert bundle.config.embedding_size == 4 < config.hidden_size
    assert bundle.predict(["the fine film"]).labels


CHOICES = tuple(Format(bits, "asymmetric", block_cols=6) for bits in (2, 4, 8))


@pytest.mark.slow
@pytest.mark.parametrize(("sensitivity", "dtype"), [("loss", "float32"), ("curvature", "bfloat16")])
def test_bits_are_given_where_they_are_needed_and_only_so_many(work: Path, sensitivity: Any, dtype: Any):
    write_table(work / "many.tsv", 330, seed=2)
    data = Data(train=str(work / "many.tsv"), eval=str(work / "eval.tsv"), max_length=16)
    out = work / f"bits-{sensitivity}"
    config = quantize.Config(
        model=str(work / "float" / "bundle"),
        data=data,
        mean_bits=6.0,
        choices=CHOICES,
        sensitivity=sensitivity,
        losses=(HardLabels(),),
        activations="none",
        weight_range="min_max",
        dtype=dtype,
        out=str(out),
    )
    quantize.main(config)
    found = json.loads((out / "run.json").read_text())["assignment"]
    bundle = bertjax.load(out / "bundle")
    stored = {path: leaf for path, leaf in flatten(bundle.params).items() if isinstance(leaf, Quantized)}
    for layer, bits in found["bits"].items():
        formats = {leaf.format for path, leaf in stored.items() if path.startswith(layer)}
        assert formats == {format for format in CHOICES if format.bits == bits}
    kernels = [leaf for path, leaf in stored.items() if path.startswith("encoder")]
    assert len(kernels) == 2 * 6
    assert sum(map(stored_size, kernels)) <= found["budget_bytes"] == 6 * sum(leaf.values.size for leaf in kernels) // 8
    both = found["layers"].values()
    tried = [
        (sum(one["cost"][b] for one, b in zip(both, bits, strict=True)), bits)
        for bits in itertools.product("248", repeat=2)
        if sum(one["bytes"][b] for one, b in zip(both, bits, strict=True)) <= found["budget_bytes"]
    ]
    assert 1 < len(tried) < 9
    assert "".join(map(str, found["bits"].values())) == "".join(min(tried)[1])
    if sensitivity == "curvature":
        assert all(len(one["eigenvalues"]) == 10 and one["cost"]["2"] > one["cost"]["8"] for one in both)
    with pytest.raises(UserError, match="smallest choice"):
        quantize.main(dataclasses.replace(config, mean_bits=0.5, out=str(work / "too-small")))


@pytest.mark.slow
def test_the_curvature_needs_ten_batches(work: Path):
    with pytest.raises(UserError, match="gives 3 batches; the curvature needs 10"):
        quantised(work, "curved", mean_bits=3.0, sensitivity="curvature")
