"""XLA's account of a BERT against the closed form, and of memory against what the arrays need."""

import jax
import jax.numpy as jnp
import pytest

from bertjax.errors import UserError
from bertjax.machine.chips import CHIPS, topology
from bertjax.machine.peak_flops import BFLOAT16
from bertjax.measure.cost import forward_cost, peak_memory, stored_bytes
from bertjax.model import BertConfig, abstract_params, build
from bertjax.params import count


def model_of(**sizes):
    config = BertConfig(architecture="BertForSequenceClassification", vocab_size=1000, **sizes)
    return build(config), abstract_params(config)


def products(d, f, layers, length, classes=2):
    """FLOPs (two per multiply and add) of every matrix product; what is done element by element is left out.

    Of the last layer a classifier reads one row, so there only keys and values are computed for all.
    """

    def layer(rows):
        attention = 2 * d * d * (length + rows) + 2 * rows * length * d  # four projections; scores and their use
        return attention + 2 * d * f * rows

    return 2 * ((layers - 1) * layer(length) + layer(1) + d * d + d * classes)


def elementwise(d, f, layers, heads, length):
    """A generous count of the rest: 60 operations per GELU (erf is a polynomial), 10 per entry of a softmax."""
    return layers * (60 * length * f + 10 * heads * length**2 + 40 * length * d) + 40 * length * d


@pytest.mark.parametrize(("d", "f", "layers", "heads", "length"), [(384, 1536, 2, 12, 26), (64, 96, 3, 4, 128)])
def test_flops_are_the_closed_form_plus_what_is_done_element_by_element(d, f, layers, heads, length):
    model, params = model_of(hidden_size=d, intermediate_size=f, num_hidden_layers=layers, num_attention_heads=heads)
    flops = forward_cost(model, params, length).flops
    assert flops is not None
    least = products(d, f, layers, length)
    assert least <= flops <= least + elementwise(d, f, layers, heads, length)
    if d == 384:
        assert flops == pytest.approx(least, rel=0.05)  # at real widths the products are nearly everything


def test_flops_follow_layers_and_batch():
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    two, three, four = (forward_cost(*model_of(num_hidden_layers=n, **sizes), 32).flops or 0 for n in (2, 3, 4))
    batch = forward_cost(*model_of(num_hidden_layers=2, **sizes), 32, batch_size=8).flops
    assert four - three == pytest.approx(three - two, rel=0.02)
    assert batch == pytest.approx(8 * two, rel=0.02)


def test_bytes_and_memory_are_at_least_the_parameters():
    model, params = model_of(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    cost = forward_cost(model, params, 32)
    table = 4 * 64 * (1000 + 512)  # of the embeddings only the rows of the text are read
    assert cost.bytes_accessed is not None
    assert cost.peak_memory is not None
    assert cost.bytes_accessed >= 4 * count(params) - table
    assert 4 * count(params) < cost.peak_memory < 4 * count(params) + 4 * 32 * 128 * 60


def test_peak_memory_counts_donated_buffers_once():
    state = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)

    def step(state):
        return 0.5 * state

    kept, donated = jax.jit(step).lower(state), jax.jit(step, donate_argnums=0).lower(state)
    assert peak_memory(kept) == 2 * 4 * 1024**2
    assert peak_memory(donated) == peak_memory(donated.compile()) == 4 * 1024**2


def test_stored_bytes_are_those_of_the_weight_files(tmp_path):
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x" * 700)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 30)
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 5000)
    assert stored_bytes(tmp_path) == 730
    with pytest.raises(UserError, match=r"no \.safetensors"):
        stored_bytes(tmp_path / "nowhere")


def test_a_topology_has_chips_along_axes_and_links_between_them():
    assert topology("v5e:2x4").links == 3
    assert topology("v5p:2x2x1").links == 2
    assert topology("v6e:1x1").links == 0
    assert CHIPS["v5p"].device_kind == "TPU v5"
    assert BFLOAT16["TPU v6 lite"] == topology("v6e:16x16").chip.flops


@pytest.mark.parametrize("name", ["v5e", "v5e:2", "v5e:2x2x1", "v5p:2x2", "v7:2x2", "v5e:0x4", "2x4"])
def test_what_is_no_topology_is_answered_with_some(name: str):
    with pytest.raises(UserError, match=r"not a TPU topology: expected v5e:2x4"):
        topology(name)
