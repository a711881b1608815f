"""The reader of compiled programs: on text written by hand, and against closed forms of what jax compiles here."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bertjax.engine.sharding import build_mesh, gathered, rows_on, state_shardings
from bertjax.learn.losses import classification
from bertjax.learn.step import Objective, Term, init_state, make_step
from bertjax.measure.hlo import Program, by_site
from bertjax.model import BertConfig, abstract_params, build
from bertjax.recipes.sharding import Sharding

LOOP = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p0: bf16[8,4], p1: bf16[4,4]) -> bf16[8,4] {
  %p0 = bf16[8,4]{1,0} parameter(0)
  %p1 = bf16[4,4]{1,0} parameter(1)
  ROOT %dot.1 = bf16[8,4]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(step)/jvp(Bert)/ffn/output/[step_3/ffn/output]/dot_general"}
}

%body (arg: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %arg = (s32[]{:T(128)}, /*index=1*/bf16[8,4]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %x = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%arg), index=1
  %w = bf16[4,4]{1,0} constant({...})
  %y = bf16[8,4]{1,0:T(8,128)(2,1)} fusion(%x, %w), kind=kOutput, calls=%fused
  %r = bf16[8,4]{1,0} all-reduce(%y), channel_id=1, replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
  ROOT %out = (s32[], bf16[8,4]{1,0}) tuple(%i, %r)
}

%condition (arg.1: (s32[], bf16[8,4])) -> pred[] {
  %limit = s32[] constant(5)
  %arg.1 = (s32[], bf16[8,4]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%arg.1), index=0
  ROOT %less = pred[] compare(%j, %limit), direction=LT
}

ENTRY %main (x0: f32[8,4]) -> f32[8,4] {
  %x0 = f32[8,4]{1,0} parameter(0)
  %begin = (s32[], bf16[8,4]{1,0}) tuple(%x0)
  %loop = (s32[], bf16[8,4]{1,0}) while(%begin), condition=%condition, body=%body
  %g = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%x0), channel_id=2, replica_groups=[2,4]<=[8], dimensions={0}
  %h = f32[8,4]{1,0} all-gather-done(%g)
  ROOT %c = f32[8,4]{1,0} dot(%h, %x0), lhs_contracting_dims={}, rhs_contracting_dims={}, metadata={op_name="jit(step)/transpose(jvp(Bert))/encoder/scores/dot_general"}
}
"""  # noqa: E501


def test_what_is_in_a_loop_counts_as_often_as_it_runs():
    program = Program(LOOP)
    assert program.times == {"add": 5, "fused": 5, "body": 5, "condition": 0, "main": 1}
    inner, outer = program.products
    assert (inner.site, inner.dtypes, inner.flops, inner.times) == ("step_*/ffn/output", ("bf16", "bf16"), 256, 5)
    assert (outer.site, outer.dtypes, outer.times) == ("gradient of encoder/scores", ("f32", "f32"), 1)
    assert by_site(program.products) == {"step_*/ffn/output": 5, "gradient of encoder/scores": 1}


def test_a_count_that_xla_gives_goes_before_the_condition():
    said = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert Program(said).times["body"] == 7
    assert Program(LOOP.replace("direction=LT", "direction=NE")).times["body"] == 1  # it ends by what it computes


def test_collectives_have_the_bytes_of_what_is_moved_and_those_of_a_ring():
    moved = Program(LOOP).collectives(8)
    assert list(moved) == ["all-reduce", "all-gather"]
    assert moved["all-reduce"] == (5, 5 * 64, 5 * 64 * 2 * 3 / 4)
    assert moved["all-gather"] == (1, 4 * 128, 4 * 128 * 3 / 4)


@pytest.mark.parametrize(
    ("groups", "size"),
    [("{{0,1},{2,3}}", 2), ("[4,2]<=[8]", 2), ("mesh['a'=2,'b'=4] {'b'}", 4), ("mesh['a'=2,'b'=4] {'a','b'}", 8)],
)
def test_groups_of_devices_are_read_in_every_form(groups: str, size: int):
    moved = Program(LOOP.replace("{{0,2,4,6},{1,3,5,7}}", groups)).collectives(8)
    assert moved["all-reduce"].sent == 5 * 64 * 2 * (size - 1) / size


def test_a_collective_in_several_fusions_is_one():
    line = next(line for line in LOOP.splitlines() if "all-reduce" in line)
    again = line.replace("%r =", "%again =")
    assert Program(LOOP.replace(line, f"{line}\n{again}")).collectives(8)["all-reduce"].count == 5


def test_traffic_is_of_arrays_in_main_memory_alone():
    # The loop: the fusion reads its weights and writes y, all-reduce reads y and writes r. Then gather and product.
    assert Program(LOOP).memory_traffic == 5 * ((32 + 64) + (64 + 64)) + 128 + (128 + 128 + 128)


def test_a_batched_product_as_a_convolution_with_holes_counts_what_meets():
    text = """HloModule m
ENTRY %main (q: bf16[32,12,128,64], k: bf16[32,12,128,64]) -> bf16[32,12,128,128] {
  %q = bf16[32,12,128,64]{3,2,1,0} parameter(0)
  %k = bf16[32,12,128,64]{3,2,1,0} parameter(1)
  ROOT %c = bf16[32,12,128,128]{2,3,1,0} convolution(%q, %k), window={size=32x12 stride=31x11 lhs_dilate=32x12}, dim_labels=01bf_01oi->01bf
}
"""  # noqa: E501
    assert Program(text).flops == 2 * 32 * 12 * 128 * 128 * 64


# --- against closed forms --------------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2}
CONFIG = BertConfig(architecture="BertForTokenClassification", vocab_size=512, max_position_embeddings=32, **SIZES)
ROWS, LENGTH = 32, 32


def compiled_step(sharding: Sharding, micro_batches: int = 1, masked: bool = False) -> tuple[Any, Any]:
    """A plain training step, or one with masked parameters, and its state as arrays that are described alone."""
    model, mesh, tx = build(CONFIG), build_mesh(sharding), optax.adamw(1e-3)

    def terms(params, extra, state, batch, update, key):
        params = jax.tree.map(jnp.multiply, params, state["masks"]) if masked else params
        output: Any = model.apply({"params": params}, batch["input_ids"])
        return {"task": Term(*classification(output.logits, batch))}, {}

    def start(params: Any) -> Any:
        return init_state(params, {}, {"masks": jax.tree.map(jnp.isfinite, params)} if masked else {}, tx)

    shapes = jax.eval_shape(start, abstract_params(CONFIG))
    places = state_shardings(shapes, mesh)
    state = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)
    kinds = {"input_ids": jnp.int32, "labels": jnp.int32, "weights": jnp.float32}
    batch = {n: jax.ShapeDtypeStruct((ROWS, LENGTH), kind, sharding=rows_on(mesh)) for n, kind in kinds.items()}
    step = make_step(gathered(Objective(terms), mesh), tx, jax.random.key(0), micro_batches)
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None)).lower(state, batch, {}).compile(), state


def bytes_of(tree: Any) -> int:
    return sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def alone() -> Program:
    return Program(compiled_step(Sharding(1, 1))[0].as_text())


def test_products_are_six_for_each_weight_and_token_and_those_of_attention(alone: Program):
    # 2 forwards, 4 backwards; scores and context are 4 * length * width for each piece and layer, three times.
    d, f, layers = CONFIG.hidden_size, CONFIG.intermediate_size, CONFIG.num_hidden_layers
    weights = layers * (4 * d * d + 2 * d * f) + d * len(CONFIG.labels)
    expected = ROWS * LENGTH * (6 * weights + 12 * layers * LENGTH * d)
    assert alone.flops == pytest.approx(expected, rel=0.02)
    assert alone.collectives(1) == {}


def test_micro_batches_are_all_counted(alone: Program):
    parts = Program(compiled_step(Sharding(1, 1), micro_batches=4)[0].as_text())
    assert parts.flops == pytest.approx(alone.flops, rel=0.02)


def test_data_parallel_moves_the_gradient(alone: Program):
    compiled, state = compiled_step(Sharding(8, 1))
    program = Program(compiled.as_text())
    moved = program.collectives(8)
    assert list(moved) == ["all-reduce"]
    assert moved["all-reduce"].payload == pytest.approx(bytes_of(state.params), rel=0.01)  # and a few sums
    assert moved["all-reduce"].sent == pytest.approx(moved["all-reduce"].payload * 7 / 4)
    assert program.flops == pytest.approx(alone.flops / 8, rel=0.02)


def test_divided_parameters_are_gathered_and_no_activations_are_moved(alone: Program):
    compiled, state = compiled_step(Sharding(1, 8))
    program = Program(compiled.as_text())
    moved = program.collectives(8)
    divided = [leaf for leaf in jax.tree.leaves(state.params) if leaf.sharding.spec != PartitionSpec()]
    assert moved["all-gather"].payload == pytest.approx(bytes_of(divided), rel=0.01)
    reduced = sum(kind.payload for name, kind in moved.items() if name != "all-gather")
    assert reduced == pytest.approx(bytes_of(state.params), rel=0.01)
    assert program.flops == pytest.approx(alone.flops / 8, rel=0.02)


def test_divided_masks_are_gathered_like_their_parameters_and_no_activations_are_moved(alone: Program):
    compiled, state = compiled_step(Sharding(1, 8), masked=True)
    program = Program(compiled.as_text())
    moved = program.collectives(8)
    divided = [leaf for leaf in jax.tree.leaves(state.params) if leaf.sharding.spec != PartitionSpec()]
    assert moved["all-gather"].payload == pytest.approx(bytes_of(divided) * 5 / 4, rel=0.01)  # a mask has one byte
    assert program.flops == pytest.approx(alone.flops / 8, rel=0.02)


def test_gathering_changes_no_gradient():
    mesh = build_mesh(Sharding(2, 4))
    x = jax.device_put(
        np.arange(32.0, dtype=np.float32).reshape(8, 4), NamedSharding(mesh, PartitionSpec("parameters"))
    )
    square: Any = lambda params, extra, state: jnp.sum(params["x"] ** 2)  # noqa: E731
    found = jax.jit(jax.grad(gathered(Objective(square), mesh).terms))({"x": x}, {}, {})
    np.testing.assert_array_equal(found["x"], 2 * x)
