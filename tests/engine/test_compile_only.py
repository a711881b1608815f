"""A step compiled for TPUs that are not there: what is said of it, against closed forms.

Skipped where libtpu cannot be installed (it is for Linux on x86-64); what needs no compiler is tested everywhere.
"""

import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import bertjax
from bertjax.engine.compile_only import TOO_LARGE, advice, bytes_of, compile_and_exit
from bertjax.engine.compiled_step import TrainingProgram
from bertjax.engine.optimiser import build_optimiser
from bertjax.engine.placeholders import with_placeholders
from bertjax.engine.sharding import build_mesh, state_shardings
from bertjax.learn.step import init_state
from bertjax.machine.chips import topology, tpu_devices
from bertjax.model import BertConfig, abstract_params
from bertjax.params import count
from bertjax.recipes.finetune import Config
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.pretrain import Config as Pretrain
from bertjax.recipes.pretrain import Shape, Text
from bertjax.recipes.sharding import Sharding
from tests.train.tiny import run

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
SIZES = {"vocab_size": 8192, "hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
NONE: Any = None
SHAPE: dict[str, Any] = {**SIZES, "intermediate_size": 256, "max_position_embeddings": 32}


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """The folder of a model that has no weights and no tokenizer."""
    folder = tmp_path / "model"
    folder.mkdir()
    content = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], **SHAPE}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def described_state(config: BertConfig, mesh: Any) -> Any:
    params = abstract_params(config)
    tx = build_optimiser(Optimiser(), 100, {"params": params, "extra": {}})
    shapes = jax.eval_shape(lambda p: init_state(p, {}, {}, tx), params)
    places = state_shardings(shapes, mesh)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)


@pytest.mark.parametrize("ways", [1, 8])
def test_memory_is_that_of_parameters_and_two_moments_under_the_sharding(ways: int):
    config, mesh = BertConfig(**SHAPE), build_mesh(Sharding(8 // ways, ways))
    state = described_state(config, mesh)
    sizes = [leaf.size for leaf in jax.tree.leaves(state.params)]
    expected = sum(4 * size // (ways if size >= 1024 else 1) for size in sizes)
    assert bytes_of(state.params) == expected
    assert bytes_of(state.opt) == 2 * expected + 2 * 4  # and the two counters


@needs_libtpu
def test_a_state_that_cannot_fit_is_refused_before_anything_is_compiled(capsys: pytest.CaptureFixture):
    training = Config(compile_only="v5e:2x2", batch_size=4)
    mesh = build_mesh(training.sharding, tpu_devices("v5e:2x2"))
    huge = BertConfig(hidden_size=8192, intermediate_size=32768, num_attention_heads=64, num_hidden_layers=12)
    batch = {"input_ids": jax.ShapeDtypeStruct((4, 128), jnp.int32)}
    with pytest.raises(SystemExit) as left:
        compile_and_exit(
            training, TrainingProgram(NONE, jax.jit(lambda: None), described_state(huge, mesh), NONE, mesh), batch, {}
        )
    assert left.value.code == TOO_LARGE
    said = capsys.readouterr().out
    assert re.search(rf"  parameters +{4 * count(abstract_params(huge)) / 2**30:.3f} GiB", said)
    assert said.endswith("so nothing was compiled\n  try --sharding.parameters=2\n")


@pytest.mark.slow
@needs_libtpu
def test_a_program_that_the_compiler_refuses_does_not_fit(capsys: pytest.CaptureFixture):
    training = Config(compile_only="v5e:1x1", batch_size=4)
    mesh = build_mesh(training.sharding, tpu_devices("v5e:1x1"))
    state = described_state(BertConfig(**SHAPE), mesh)
    large = jnp.ones((2**15, 2**15))

    def step(state, batch, constants):
        parts = [batch["x"]]
        for _ in range(6):
            parts.append(jnp.sin(parts[-1]) @ parts[0])
        return parts[6] @ parts[5] @ parts[4] @ parts[3] + sum(parts)

    batch = {"input_ids": jax.ShapeDtypeStruct((4, 128), jnp.int32), "x": large}
    with pytest.raises(SystemExit) as left:
        compile_and_exit(training, TrainingProgram(NONE, jax.jit(step), state, NONE, mesh), batch, {})
    assert left.value.code == TOO_LARGE
    said = capsys.readouterr().out
    assert re.search(r"does not fit: .*HBM.*\n  try --remat=True", said)


@pytest.mark.slow
@needs_libtpu
def test_a_script_says_what_its_step_takes_and_leaves_nothing(described: Path, tmp_path: Path):
    out = tmp_path / "out"
    flags = f"--model={described}", "--data.train=none.tsv", "--data.eval=none.tsv", "--data.max_length=32"
    done = run("finetune", *flags, "--dtype=bfloat16", "--compile_only=v5e:2x2", f"--out={out}")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        "v5e:2x2: 4 x TPU v5 lite, data=4 parameters=1, bfloat16, batch x sequence length 32 x 32 in 1 "
    )
    assert lines[-1] == "fits"
    config = BertConfig(architecture="BertForSequenceClassification", **SHAPE)
    own = 4 * count(abstract_params(config)) / 2**30
    said = {name: float(size) for name, size in re.findall(r"^  (\w+) +([\d.]+) GiB", done.stdout, re.M)}
    assert said["parameters"] == pytest.approx(own, abs=6e-4)
    assert said["optimiser"] == pytest.approx(2 * own, abs=6e-4)
    assert "0 % of it in float32" in done.stdout
    assert re.search(r"all-reduce +\d+ x", done.stdout)
    assert [line.split()[0] for line in done.stderr.splitlines()] == [str(described), "none.tsv", "compiling"]
    assert not out.exists()


@needs_libtpu
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:1x1", "v5e:16x16", "v5p:2x2x4", "v6e:4x4"])
def test_a_slice_has_one_device_a_chip_of_the_kind_in_the_table(name: str):
    asked, devices = topology(name), tpu_devices(name)
    assert len(devices) == math.prod(asked.sizes)
    assert {device.device_kind for device in devices} == {asked.chip.device_kind}


@needs_libtpu
def test_what_libtpu_does_not_know_is_answered(tmp_path: Path):
    done = run("finetune", "--compile_only=v5e:3x5", f"--out={tmp_path / 'out'}", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("--compile_only=v5e:3x5: libtpu has no such slice.\nSlices are v5e or v6e: 1x1, ")


@pytest.mark.slow
@needs_libtpu
def test_a_run_that_trains_nothing_has_no_step(described: Path, tmp_path: Path):
    flags = f"--model={described}", "--data.max_length=32", "--compile_only=v5e:2x2"
    done = run("quantize", *flags, f"--out={tmp_path / 'out'}", check=False)
    assert done.returncode == 2
    assert "these settings train nothing, so there is no step" in done.stderr


def test_without_libtpu_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bertjax.UserError, match=r'pip install "bertjax\[tpu\]"'):
        tpu_devices("v5e:2x2")


def test_a_word_that_is_no_topology_is_answered_when_it_is_read():
    with pytest.raises(bertjax.UserError, match="not a TPU topology: expected v5e:2x4"):
        Config(compile_only="v5e")


@pytest.mark.parametrize(
    ("expected", "ways", "state", "changes"),
    [
        ("--sharding.parameters=2", 1, 9, {"batch_size": 32}),
        ("--remat=True", 1, 3, {"batch_size": 32}),
        ("--remat=True", 8, 9, {"batch_size": 32}),
        ("--micro_batches=4", 1, 3, {"batch_size": 32, "micro_batches": 2, "remat": True}),
        ("--sharding.parameters=2", 1, 3, {"batch_size": 8, "remat": True}),
        ("a shorter --data.max_length, a smaller --batch_size or more chips", 8, 3, {"batch_size": 8, "remat": True}),
    ],
)
def test_advice_turns_one_flag_after_the_other(expected: str, ways: int, state: int, changes: dict):
    training, mesh = Config(compile_only="v5e:2x4", **changes), build_mesh(Sharding(8 // ways, ways))
    assert advice(training, state * 2**30, mesh) == expected


# --- what stands in for what is missing ------------------------------------------------------------------------------


def test_a_model_without_weights_and_missing_text_are_stood_in_for(described: Path, tmp_path: Path):
    config = Config(model=str(described))
    config = with_placeholders(
        Config(model=str(described), data=type(config.data)(train="no.tsv", max_length=32)), tmp_path
    )
    bundle = bertjax.load(config.model)
    assert (bundle.config.hidden_size, bundle.newly_initialized) == (128, ())
    assert not any(leaf.any() for leaf in jax.tree.leaves(bundle.params))
    assert Path(config.data.train).read_text().splitlines()[0] == "text\tlabel"
    assert config.data.eval == config.data.train


def test_a_model_from_nothing_gets_the_vocabulary_that_was_asked_for(tmp_path: Path):
    asked = Pretrain(data=Text(train="no such folder", max_length=32), vocab_size=5000, shape=Shape(hidden_size=64))
    config = with_placeholders(asked, tmp_path)
    assert config.model is not None
    assert bertjax.load(config.model).config.vocab_size == 5000


def test_what_is_there_is_used_as_it_is(tmp_path: Path):
    (tmp_path / "mine.tsv").write_text("text\tlabel\nfine\tgood\n")
    config = Config(data=type(Config().data)(train=str(tmp_path / "mine.tsv")))
    assert with_placeholders(config, tmp_path) == config
    config = Config(data=type(Config().data)(train="demo", eval="no.tsv"))
    assert with_placeholders(config, tmp_path).data.eval == "demo"


def test_a_kind_that_nothing_stands_in_for_is_answered(tmp_path: Path):
    with pytest.raises(bertjax.UserError, match=r"--data.train=no.conll does not exist, .*--data.kind=tokens"):
        with_placeholders(Config(data=type(Config().data)(train="no.conll", kind="tokens")), tmp_path)
