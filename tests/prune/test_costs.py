"""Tables of times: their arithmetic against NumPy, their measurement against the models that they predict."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax
from bertjax.errors import UserError
from bertjax.jobs.latency import grid, rising, variant, write_for
from bertjax.model.products import plain_product
from bertjax.prune import CoFi, keep_heads
from bertjax.prune.costs import Flops, LatencyTable, LayerSizes, Weights, model_cost, read_table, total_cost
from tests.model.tiny import TINY, tiny
from tests.train.tiny import run, write_model, write_table

TABLE = LatencyTable(
    2.0, ((0, 0.0), (1, 0.5), (3, 0.9)), ((0, 0.0), (4, 0.2), (10, 0.8)), 12, 4, "onnxruntime", 1, "p", "t", {"v": "1"}
)


def test_times_between_two_counts_are_on_a_line():
    for count in (0, 1, 1.5, 2, 3):
        expected = np.interp(count, [0, 1, 3], [0, 0.5, 0.9])
        assert TABLE.cost("heads", count) == pytest.approx(expected)
        np.testing.assert_allclose(TABLE.cost("heads", jnp.float32(count)), expected, rtol=1e-6)
    gradient = jax.grad(lambda count: TABLE.cost("neurons", count))(jnp.float32(7.0))
    np.testing.assert_allclose(gradient, 0.1, rtol=1e-5)


def test_a_models_cost_is_the_sum_of_its_parts():
    layers = [LayerSizes(3, 10), LayerSizes(1, 0), LayerSizes(0, 4)]
    assert total_cost(TABLE, layers) == pytest.approx(2.0 + 0.9 + 0.8 + 0.5 + 0.2)
    assert model_cost(TABLE, TINY) == pytest.approx(2.0 + 2 * (0.9 + 0.8))
    kernels = [leaf for path, leaf in bertjax.params.flatten(tiny()[1]).items() if path.startswith("encoder/layer")]
    assert total_cost(Weights(4, 12), [LayerSizes(3, 10)] * 2) == sum(leaf.size for leaf in kernels if leaf.ndim == 2)


def test_flops_are_those_of_the_products():
    """Of one text of five tokens: each product of the program, counted by its shapes."""
    model, params = tiny()
    ids = jnp.ones((1, 5), jnp.int32)
    total = 0

    def product(site: str, subscripts: str, left: Any, right: Any) -> Any:
        nonlocal total
        if site.startswith("step_"):
            sizes = dict(zip(subscripts.partition("->")[0].replace(",", ""), (*left.shape, *right.shape), strict=True))
            total += 2 * int(np.prod(list(sizes.values())))
        return plain_product(site, subscripts, left, right)

    type(model)(model.config, product).apply({"params": params}, ids, ids, ids)
    assert model_cost(Flops(4, 5, 12), model.config) == total
    part = CoFi(flops=0.5, length=5)
    extra, _ = part.init(jax.random.key(0), TINY, params)
    opened = jax.tree.map(lambda leaf: leaf + 1000.0, extra["logits"])
    np.testing.assert_allclose(part.remaining(TINY, opened), 1.0, rtol=1e-5)


def test_a_table_survives_its_file_and_bad_ones_are_refused(tmp_path: Path):
    path = str(tmp_path / "latency.json")
    TABLE.save(path)
    assert read_table(path) == TABLE
    with pytest.raises(UserError, match=r"measure a table of times first: bertjax latency"):
        read_table(str(tmp_path / "none.json"))
    Path(path).write_text(Path(path).read_text().replace('"base": 2.0', '"base": -1'))
    with pytest.raises(UserError, match="base"):
        read_table(path)
    with pytest.raises(UserError, match="expected 0 and more counts, ascending"):
        LatencyTable(1.0, ((1, 0.5), (3, 0.9)), TABLE.neurons, 12, 4, "onnxruntime", 1, "p", "t", {})
    with pytest.raises(UserError, match=r"up to 3 heads; the model has 12, 4 and 4"):
        TABLE.check_model(TINY.replace(num_attention_heads=4, head_size=4), "table.json")
    pruned, _ = keep_heads(
        TINY.replace(num_attention_heads=4, head_size=4),
        tiny(num_attention_heads=4, head_size=4)[1],
        {0: [0], 1: [1, 2]},
    )
    TABLE.check_model(pruned, "table.json")


def test_cofi_counts_milliseconds(tmp_path: Path):
    TABLE.save(str(tmp_path / "t.json"))
    part = CoFi(speedup=2.0, table=str(tmp_path / "t.json"), parts=("heads", "attention", "neurons", "ffn"))
    extra, _ = part.init(jax.random.key(0), TINY, tiny()[1])
    closed = jax.tree.map(lambda leaf: leaf - 1000.0, extra["logits"])
    np.testing.assert_allclose(part.remaining(TINY, closed), 2.0 / (2.0 + 3.4), rtol=1e-5)  # the base alone
    opened = jax.tree.map(lambda leaf: leaf + 1000.0, extra["logits"])
    np.testing.assert_allclose(part.remaining(TINY, opened), 1.0, rtol=1e-5)


def test_a_speed_up_out_of_reach_is_refused_at_once(tmp_path: Path):
    TABLE.save(str(tmp_path / "t.json"))
    parts: Any = ("heads", "attention", "neurons", "ffn")
    with pytest.raises(UserError, match=r"speedup=3 was asked, and with all gates closed it is 2\.\d\d times as fast"):
        CoFi(speedup=3.0, table=str(tmp_path / "t.json"), parts=parts).init(jax.random.key(0), TINY, tiny()[1])
    with pytest.raises(UserError, match="no such file"):
        CoFi(speedup=2.0, table="none.json", parts=parts).init(jax.random.key(0), TINY, tiny()[1])


def test_the_grid_has_both_ends_and_noise_does_not_make_more_parts_cheaper():
    assert grid(12) == [1, 2, 3, 6, 9, 12]
    assert grid(1) == [1]
    assert rising([(1, 0.5), (2, 0.4), (3, 0.9)]) == [(1, 0.5), (2, 0.5), (3, 0.9)]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "jax"])
def test_a_variant_is_the_model_with_that_many_parts(tmp_path: Path, runtime: Any):
    from bertjax.measure.onnx import open_session

    write_model(tmp_path / "model", architecture="BertForSequenceClassification")
    write_for(variant(bertjax.load(tmp_path / "model"), (1, 0)), runtime, tmp_path / "variant")
    if runtime == "onnxruntime":
        assert open_session(tmp_path / "variant", 1) is not None
    else:
        assert {step.shape for step in bertjax.load(tmp_path / "variant").config.depth_steps()} == {(1, 0)}


@pytest.mark.slow
def test_the_command_writes_a_table_that_pruning_reads(tmp_path: Path):
    write_model(tmp_path / "model", architecture="BertForSequenceClassification", labels=("bad", "good"))
    text = write_table(tmp_path / "eval.tsv", 12)
    flags = f"--model={tmp_path / 'model'}", f"--data.eval={text}", "--repeats=3", "--sample=4"
    run("latency", *flags, f"--out={tmp_path / 'out'}")
    table = read_table(str(tmp_path / "out" / "latency.json"))
    assert [count for count, _ in table.heads] == [0, 1, 2]
    assert [count for count, _ in table.neurons] == [0, 2, 4, 8, 16, 24, 32]
    assert table.base > 0
    table.check_model(bertjax.load(tmp_path / "model").config, "table")
