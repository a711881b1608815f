"""A step in bfloat16: every product in it, and in float32 what adds many numbers up or goes through an exponential."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.engine.optimiser import build_optimiser
from bertjax.learn.losses import classification, ponder_cost
from bertjax.learn.step import Objective, Term, init_state, make_step
from bertjax.machine.xla import made_for
from bertjax.measure.hlo import Program
from bertjax.model import BertConfig, abstract_params, build, mobile_config, universal_config
from bertjax.model.products import dense, plain_product
from bertjax.recipes.optimiser import Optimiser
from bertjax.text.batches import inputs_of
from tests.train.abstract import integers

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 80,
    "dtype": "bfloat16",
}
CLASSIFIER: dict[str, Any] = {"architecture": "BertForSequenceClassification", **SIZES}
ALBERT: dict[str, Any] = {"model_type": "albert", "architecture": "AlbertForSequenceClassification"}
MOBILE: dict[str, Any] = {"architecture": "MobileBertForSequenceClassification", "embedding_size": 16}
CONFIGS = {
    "bert": BertConfig(**CLASSIFIER),
    "bert, flash": BertConfig(**CLASSIFIER, attention="flash", attention_probs_dropout_prob=0.0),
    "albert": BertConfig(**{**CLASSIFIER, **ALBERT}, embedding_size=16, num_hidden_groups=1),
    "mobilebert": mobile_config("base", **{**SIZES, **MOBILE}, intra_bottleneck_size=24),
    "factorised": BertConfig(**CLASSIFIER, embedding_size=16, factorised="words"),
    "universal": universal_config("official", **CLASSIFIER),
}
IN_FLOAT32 = ("halting",)
"""Sites whose product is in float32: when to halt is a running sum, compared with a threshold."""
SUMS_AND_EXPONENTIALS = ("exp", "log", "erf", "rsqrt", "reduce_sum", "reduce_max", "cumsum", "scatter-add")


def has_amx() -> bool:
    about = Path("/proc/cpuinfo")
    return about.exists() and "amx_bf16" in about.read_text()


def equations(program: Any) -> Iterator[Any]:
    """Those of a program and of all programs in it."""
    for equation in program.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def step_of(config: BertConfig) -> Iterator[Any]:
    model, params = build(config), abstract_params(config)
    optimiser = build_optimiser(Optimiser(), 10, {"params": params, "extra": {}})

    def terms_of(params: Any, extra: Any, state: Any, batch: Any, update: Any, key: Any) -> Any:
        output: Any = model.apply({"params": params}, *inputs_of(batch), rngs={"dropout": key})
        terms = {"task": Term(*classification(output.logits, batch))}
        if output.trace is not None:
            terms["ponder"] = Term(*ponder_cost(output.trace, batch), 0.01)
        return terms, {}

    ids = integers(8, input_ids=16, attention_mask=16, token_type_ids=16)
    batch = {**ids, "labels": jax.ShapeDtypeStruct((8,), jnp.int32), "weights": jax.ShapeDtypeStruct((8,), jnp.float32)}
    state = jax.eval_shape(lambda p: init_state(p, {}, {}, optimiser), params)
    step = make_step(Objective(terms_of), optimiser, jax.random.key(0))
    return equations(jax.make_jaxpr(step)(state, batch, {}).jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_products_are_in_bfloat16_and_sums_in_float32(name: str):
    products, sums = 0, 0
    for equation in step_of(CONFIGS[name]):
        kinds = {str(v.aval.dtype) for v in equation.invars if jnp.issubdtype(v.aval.dtype, jnp.floating)}
        where = str(equation.source_info.name_stack)
        if equation.primitive.name == "dot_general" and not any(site in where for site in IN_FLOAT32):
            products += 1
            assert kinds == {"bfloat16"}, (where, [v.aval for v in equation.invars])
        if equation.primitive.name in SUMS_AND_EXPONENTIALS:
            sums += 1
            assert kinds <= {"float32"}, (equation.primitive.name, where, [v.aval for v in equation.invars])
    assert products > 20
    assert sums > 20


def test_the_gradient_of_a_bias_is_summed_in_float32():
    rows, columns = 8192, 4
    wanted = np.random.default_rng(0).normal(0.5, 1, (rows, columns)).astype(jnp.bfloat16)

    def number(bias: Any) -> Any:
        said = dense(jnp.ones((rows, 1), jnp.bfloat16), jnp.zeros((1, columns)), bias, site="", product=plain_product)
        return (said * wanted).astype(jnp.float32).sum()

    np.testing.assert_allclose(
        jax.jit(jax.grad(number))(jnp.zeros(columns)), wanted.astype(np.float64).sum(0), rtol=1e-3
    )


PRODUCTS = (
    ("bli,io->blo", (2, 48, 32), (32, 24)),
    ("bld,vd->blv", (2, 48, 32), (24, 32)),
    ("bli,io->blo", (1, 7, 32), (32, 24)),
    ("bqhk,bmhk->bhmq", (2, 16, 3, 8), (2, 16, 3, 8)),
    ("bhmq,bmhk->bqhk", (2, 3, 16, 16), (2, 16, 3, 8)),
)


@pytest.mark.parametrize(("subscripts", "left", "right"), PRODUCTS)
def test_a_product_in_bfloat16_is_that_of_the_rounded_numbers_and_so_are_its_gradients(
    subscripts: str, left: tuple[int, ...], right: tuple[int, ...]
):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in (left, right))
    exactly, back = jax.vjp(
        lambda *operands: jnp.einsum(subscripts, *operands, precision="highest"),
        *(operand.astype(jnp.float32) for operand in (x, y)),
    )
    out, ours = jax.vjp(lambda *operands: plain_product("", subscripts, *operands), x, y)
    wanted = jnp.asarray(rng.normal(size=out.shape), jnp.bfloat16)
    last_digit: dict[str, Any] = {"rtol": 2**-7, "atol": 1e-5}
    for found, expected in zip((out, *ours(wanted)), (exactly, *back(wanted.astype(jnp.float32))), strict=True):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(np.float32), expected, **last_digit)


@pytest.mark.slow
def test_a_program_for_a_tpu_is_the_same_wherever_it_is_made():
    def barriers(kind: str) -> int:
        with made_for(kind):
            return sum(one.primitive.name == "optimization_barrier" for one in step_of(CONFIGS["bert"]))

    matrices = 2 * 6 + 2  # of two layers, the pooler and the classifier, each with a gradient
    assert (barriers("cpu"), barriers("tpu")) == (matrices, 0)


@pytest.mark.skipif(not has_amx(), reason="this processor has no instructions for bfloat16")
def test_a_processor_that_multiplies_bfloat16_is_let():
    def number(x: Any, kernel: Any) -> Any:
        for site in ("first", "second"):
            x = dense(x, kernel, jnp.zeros(256), site=site, product=plain_product)
        return x.astype(jnp.float32).sum()

    shapes = jax.ShapeDtypeStruct((32, 64, 256), jnp.bfloat16), jax.ShapeDtypeStruct((256, 256), jnp.float32)
    text: Any = jax.jit(jax.grad(number, (0, 1))).lower(*shapes).compile().as_text()
    products = Program(text).products
    assert len(products) == 5  # two a gradient and one forward: nobody reads the second's result
    assert {one.dtypes for one in products} == {("bf16", "bf16")}
