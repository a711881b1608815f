"""Fused kernels: as the plain path, in outputs and gradients; and a TPU's compiler takes them, on one device and four.

The TPU kernel runs here in Pallas's interpreter, which makes of it a program for this processor, block by block.
"""

import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn_calls
from jax.experimental import pallas
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bertjax.errors import UserError
from bertjax.model import BertConfig, LayerGates, build, init_params
from bertjax.model.attention import fused_attention, key_mask
from bertjax.quantized.formats import Activation, Quantization
from tests.model.tiny import tiny

FLOAT32: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-5}
"""Two formulas of a softmax, one of them in blocks."""
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 700,
    "initializer_range": 0.2,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setattr(pallas, "pallas_call", partial(pallas.pallas_call, interpret=True))


def batch(rows: int, length: int, packed: bool) -> dict[str, np.ndarray]:
    """Rows with padding at the end, or with three texts and padding."""
    rng, columns = np.random.default_rng(length), np.arange(length)
    real = np.stack([columns < length - 3 * (row % 3) for row in range(rows)]).astype(np.int32)
    ids = rng.integers(1, 50, (rows, length)).astype(np.int32) * real
    if not packed:
        return {"input_ids": ids, "attention_mask": real}
    starts = np.stack([[0, length // 3 + row % 3, length // 2 + row % 3] for row in range(rows)]).astype(np.int32)
    segments = (columns[None] >= starts[..., None]).sum(axis=1) * real
    return {
        "input_ids": ids,
        "attention_mask": real,
        "segment_ids": segments.astype(np.int32),
        "position_ids": (columns[None] - np.take_along_axis(starts, np.maximum(segments - 1, 0), axis=1)) * real,
        "cls_positions": starts,
    }


def said(model: Any, params: Any, inputs: Any, **options: Any) -> Any:
    return model.apply({"params": params}, **inputs, **options)


def models(**changes: Any) -> tuple[Any, Any, Any]:
    """Plain and fused, and their parameters."""
    config = BertConfig(**{**SIZES, **changes})
    return build(config), build(config.replace(attention="flash")), init_params(config, 0)


def computed(model: Any, params: Any, inputs: Any, gates: Any = None) -> Any:
    """Every hidden state of the real tokens, the pooled vectors, and the gradient of a number made from both."""
    real = jnp.asarray(inputs["attention_mask"])[..., None]

    def number(params: Any) -> Any:
        out = said(model, params, inputs, gates=gates)
        states = [state.astype(jnp.float32) * real for state in out.hidden_states]
        number = sum((state**2).sum() for state in states) / real.sum() + (out.pooled.astype(jnp.float32) ** 3).sum()
        return number, (states, out.pooled)

    return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(number, has_aux=True))(params))


def assert_same(plain: Any, fused: Any, params: Any, inputs: Any, gates: Any = None) -> None:
    def close(mine: Any, theirs: Any) -> None:
        scale = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(mine / scale, theirs / scale, **FLOAT32)

    jax.tree.map(close, computed(fused, params, inputs, gates), computed(plain, params, inputs, gates))


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("length", [21, 128, 600])
def test_the_tpu_kernel_computes_what_the_plain_path_does(length: int, packed: bool):
    """One block, filled up or not, and five of them that share a softmax."""
    assert_same(*models(), batch(3, length, packed))


@pytest.mark.slow
@pytest.mark.parametrize("head_size", [64, 128])
def test_it_does_so_with_larger_heads(head_size: int):
    assert_same(*models(head_size=head_size, num_hidden_layers=1), batch(2, 40, packed=True))


@pytest.mark.slow
def test_it_does_so_in_bfloat16():
    """As near to float32 as the plain path in bfloat16 is."""
    plain, fused, params = models(num_hidden_layers=1)
    inputs = batch(2, 130, packed=True)
    exact = computed(plain, params, inputs)
    halves = (computed(build(m.config.replace(dtype="bfloat16")), params, inputs) for m in (plain, fused))
    plain_off, fused_off = (
        float(optax.tree.norm(jax.tree.map(lambda a, b: np.float32(a) - np.float32(b), half, exact))) for half in halves
    )
    assert fused_off < 1.2 * plain_off
    assert fused_off < 0.03 * float(optax.tree.norm(exact))


@pytest.mark.slow
def test_it_does_so_under_gates_and_rematerialisation():
    gates = [LayerGates(heads=jnp.array([0.5, 1.0])), LayerGates(heads=jnp.array([0.0, 2.0]))]
    assert_same(*models(remat=True), batch(2, 21, packed=False), gates)


@pytest.mark.parametrize("rows", [8, 6], ids=["a row a device", "rows that do not divide"])
def test_it_does_so_on_a_mesh(rows: int):
    mesh = jax.make_mesh((4, 2), ("data", "parameters"), axis_types=(AxisType.Auto,) * 2)
    places = NamedSharding(mesh, PartitionSpec(("data", "parameters") if rows % 8 == 0 else None))
    plain, fused, params = models(num_hidden_layers=1)
    inputs = batch(rows, 24, packed=True)

    def pooled(model: Any, inputs: Any) -> Any:
        return jax.jit(lambda params, inputs: said(model, params, inputs).pooled)(params, inputs)

    found = np.asarray(pooled(fused, jax.device_put(inputs, places)))
    np.testing.assert_allclose(found, pooled(plain, inputs), **FLOAT32)


@pytest.mark.slow
def test_attention_scores_are_there_whichever_kernel_ran():
    plain, fused, params = models(num_hidden_layers=1)
    inputs = batch(2, 8, packed=False)
    found = said(fused, params, inputs).attention_scores
    np.testing.assert_allclose(found[0], said(plain, params, inputs).attention_scores[0], **FLOAT32)


def test_no_array_of_all_pairs_of_tokens_is_made():
    _, fused, params = models(num_hidden_layers=1)
    inputs = batch(2, 384, packed=True)
    plain = build(fused.config.replace(attention="xla"))
    programs = (str(jax.make_jaxpr(lambda p, m=m: said(m, p, inputs).pooled)(params)) for m in (fused, plain))
    # A kernel has its block of scores, for one row and head; with a third axis they are scores in memory.
    assert [",384,384]" in program for program in programs] == [False, True]


@pytest.mark.parametrize("kernel", ["cudnn", "flash"])
def test_dropout_that_a_kernel_cannot_do_is_refused_and_not_forgotten(kernel: Any):
    model, params = tiny(attention=kernel, dtype="bfloat16")
    key = {"dropout": jax.random.key(0)}
    with pytest.raises(UserError, match=r"attention_probs_dropout_prob is 0\.1: train with 0, or with"):
        model.apply({"params": params}, np.ones((1, 4), np.int32), rngs=key)


def test_rounding_that_a_kernel_cannot_do_is_refused():
    activations = (("attention/scores", Activation()),)
    with pytest.raises(UserError, match="a fused attention kernel does not support quantised activations: use 'xla'"):
        BertConfig(attention="flash", quantization=Quantization(activations=activations))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("length", [21, 128])
def test_cudnn_is_given_shapes_that_it_takes(length: int, packed: bool, monkeypatch):
    """Without an NVIDIA GPU: jax's own checks of a training step, up to the program that would be sent there. It wants
    a mask for every query and, for the gradient, an even length."""
    monkeypatch.setattr(cudnn_calls, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn_calls, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(cudnn_calls, "is_cuda_compute_capability_equal", lambda _: False)
    config = BertConfig(**SIZES, dtype="bfloat16", attention="cudnn")
    model, params, inputs = build(config), init_params(config, 0), batch(2, length, packed)

    def number(params: Any) -> Any:
        return said(model, params, inputs).pooled.astype(jnp.float32).sum()

    program = jax.jit(jax.grad(number)).trace(params).lower(lowering_platforms=("cuda",)).as_text()
    assert "cudnn$fmhaScaleBias" in program.replace("\\22", "") or "__cudnn$fmha" in program


def test_padding_sees_padding_alone_and_no_token_sees_another_segment():
    real = np.array([[1, 1, 1, 0]], np.int32)
    assert key_mask(real, kernel="flash").tolist() == [[0, 0, 0, -1]]
    assert key_mask(real, np.array([[1, 1, 2, 0]], np.int32), "flash").tolist() == [[1, 1, 2, -1]]
    values = jnp.eye(4)[None, :, None, :]
    alike, segments = jnp.ones((1, 4, 1, 4)), jnp.array([[1, 1, 2, -1]])
    seen = fused_attention("flash", alike, alike, values, segments)[0, :3, 0]
    np.testing.assert_allclose(seen, [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0]], atol=1e-6)


COMPILED = """
import os
os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
import jax, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from bertjax.learn.losses import classification
from bertjax.model import BertConfig, abstract_params, build
from bertjax.text.batches import inputs_of, places_of
from bertjax.recipes.optimiser import Optimiser
from bertjax.engine.optimiser import build_optimiser
from bertjax.engine.sharding import state_shardings
from bertjax.learn.step import Objective, Term, init_state, make_step

chips = np.array(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)
for dtype, length, devices, parts, heads, remat in (
    ("bfloat16", 128, (2, 2), 1, 6, False),
    ("float32", 600, (4, 1), 2, 12, True),
):
    config = BertConfig(
        architecture="BertForSequenceClassification", hidden_size=384, num_attention_heads=heads, num_hidden_layers=2,
        intermediate_size=256, vocab_size=512, max_position_embeddings=640, dtype=dtype, attention="flash",
        attention_probs_dropout_prob=0.0, remat=remat,
    )
    model = build(config)
    some = chips[: devices[0] * devices[1]].reshape(devices)
    mesh = Mesh(some, ("data", "parameters"), axis_types=(AxisType.Auto,) * 2)

    def terms(params, extra, state, batch, update, key):
        output = model.apply({"params": params}, *inputs_of(batch), **places_of(batch), rngs={"dropout": key})
        return {"task": Term(*classification(output.logits, batch))}, {}

    params = abstract_params(config)
    optimiser = build_optimiser(Optimiser(), 10, {"params": params, "extra": {}})
    state = jax.eval_shape(lambda p: init_state(p, {}, {}, optimiser), params)
    places = state_shardings(state, mesh)
    state = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), state, places)
    wide = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids", "segment_ids", "position_ids"), (8, length))
    wide |= {"cls_positions": (8, 4), "labels": (8, 4), "weights": (8, 4)}
    rows = NamedSharding(mesh, P(("data", "parameters")))
    kinds = {name: np.float32 if name == "weights" else np.int32 for name in wide}
    batch = {name: jax.ShapeDtypeStruct(shape, kinds[name], sharding=rows) for name, shape in wide.items()}
    step = make_step(Objective(terms), optimiser, jax.random.key(0), parts)
    step = jax.jit(step, donate_argnums=0, out_shardings=(places, None))
    text = step.trace(state, batch, {}).lower(lowering_platforms=("tpu",)).compile().as_text()
    kernels = text.count('custom_call_target="tpu_custom_call"')
    print(dtype, length, devices, kernels, "kernels")
    assert kernels >= 3 * 2, kernels
    assert length < 129 or "640,640]" not in text
"""


@pytest.mark.slow
def test_a_tpu_compiler_takes_the_whole_step_on_four_devices():
    """Ahead of time, for chips that are not here: forward and backward kernels of a packed fine-tuning step, with the
    batch and the parameters divided, in micro-batches and with rematerialisation."""
    pytest.importorskip("libtpu", reason="libtpu is not installed (pip install 'jax[tpu]'), and it has the compiler")
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
