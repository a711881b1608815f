"""What no answer can be computed with, and what would be left out of one, is refused where a folder opens."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bertjax
from bertjax.model import BottleneckConfig, soundness
from bertjax.params import flatten, map_with_path
from bertjax.quantize import quantise_weights
from bertjax.quantized.formats import INT8, Activation, Format, Quantization
from tests.model.tiny import TINY, tiny
from tests.train.tiny import write_model

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
ASYMMETRIC = ((r"attention/query/kernel$", Format(4, "asymmetric")),)
TERNARY = ((r"attention/query/kernel$", Format(2, "ternary")),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that somebody else wrote: without digests, which would have found all of this."""
    return others(write_model(tmp_path / "model", architecture="BertForSequenceClassification"))


def others(folder: Path) -> Path:
    (folder / "digests.json").unlink()
    return folder


def change(folder: Path, name: str, value: float, dtype: type = np.float32) -> None:
    tensors = {key: tensor.astype(dtype) for key, tensor in load_file(folder / "model.safetensors").items()}
    tensors[name][(1,) * tensors[name].ndim] = value
    save_file(tensors, folder / "model.safetensors")


def edit(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(call, *given, **named) -> str:
    with pytest.raises(bertjax.UserError) as caught:
        call(*given, **named)
    assert len(str(caught.value).splitlines()) <= 5
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        (QUERY, np.nan, np.float32),
        ("classifier.bias", np.inf, np.float32),
        ("bert.embeddings.word_embeddings.weight", -np.inf, np.float32),
        ("bert.encoder.layer.1.output.LayerNorm.weight", np.nan, np.float16),
        ("bert.pooler.dense.weight", 1e39, np.float64),
        ("bert.pooler.dense.bias", -1e300, np.float64),
        ("bert.pooler.dense.bias", np.nan, np.float64),
    ],
)
def test_a_weight_that_is_no_number_is_refused_and_named(folder: Path, name: str, value: float, dtype: type):
    change(folder, name, value, dtype)
    message = refusal(bertjax.load, folder)
    assert message.startswith(f"{folder}: {name} holds ")
    assert "expected a finite number, in float32" in message


def test_numbers_that_cancel_out_are_found_too(folder: Path):
    tensors = dict(load_file(folder / "model.safetensors"))
    tensors["classifier.bias"][:] = np.inf, -np.inf
    save_file(tensors, folder / "model.safetensors")
    assert "classifier.bias holds inf at [0]" in refusal(bertjax.load, folder)


def test_large_numbers_that_are_numbers_open(folder: Path):
    largest = float(np.finfo(np.float32).max)
    change(folder, QUERY, largest, np.float64)
    tensors = dict(load_file(folder / "model.safetensors"))
    tensors["bert.pooler.dense.weight"][:] = largest
    save_file(tensors, folder / "model.safetensors")
    assert flatten(bertjax.load(folder).params)["pooler/kernel"].max() == largest


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_not_saved(tmp_path: Path, value: float):
    model, params = tiny()
    params["pooler"]["bias"] = np.full_like(params["pooler"]["bias"], value)
    message = refusal(bertjax.save, bertjax.Bundle(model.config, params), tmp_path / "model")
    assert message.startswith(f"this model: bert.pooler.dense.bias holds {value} at [0]")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rules", "part", "value", "wanted"),
    [
        (INT8, "scale", np.nan, "a scale above 0"),
        (INT8, "scale", np.inf, "a scale above 0"),
        (INT8, "scale", 0.0, "a scale above 0"),
        (INT8, "scale", -0.5, "a scale above 0"),
        (ASYMMETRIC, "offset", np.nan, "a finite number"),
        (ASYMMETRIC, "scale", -1.0, "a scale above 0"),
        (TERNARY, "scale", -1.0, "a scale above 0"),
        (TERNARY, "scale", 0.0, None),  # of a block of zeros
    ],
)
def test_scales_of_integers_are_numbers_above_0(tmp_path: Path, rules, part: str, value: float, wanted: str | None):
    model, params = tiny()
    bertjax.save(bertjax.Bundle(*quantise_weights(model.config, params, rules)), tmp_path / "model")
    folder, name = others(tmp_path / "model"), f"{QUERY}.{part}"
    tensors = dict(load_file(folder / "model.safetensors"))
    tensors[name].flat[0] = value
    save_file(tensors, folder / "model.safetensors")
    if wanted is None:
        bertjax.load(folder)
        return
    message = refusal(bertjax.load, folder)
    assert message.startswith(f"{folder}: {name} holds {value} at [0, 0]; expected {wanted}")


@pytest.mark.parametrize(
    "ends", [(-np.inf, 1.0), (-1.0, np.inf), (np.nan, 1.0), (-1.0, np.nan), (1.0, -1.0), (1.0, 2.0)]
)
def test_ranges_of_inputs_are_finite_and_hold_0(ends: tuple[float, float]):
    with pytest.raises(bertjax.UserError, match="expected finite numbers with low <= 0 <= high"):
        Activation(8, *ends)


def test_a_stored_range_that_is_no_range_is_refused(tmp_path: Path):
    model, params = tiny()
    site = "step_0/attention/query"
    config = model.config.replace(quantization=Quantization(activations=((site, Activation(8, -1.0, 1.0)),)))
    bertjax.save(bertjax.Bundle(config, params), tmp_path / "model")
    folder = others(tmp_path / "model")
    text = (folder / "config.json").read_text()
    for number in ("Infinity", "NaN", "-2.0"):
        (folder / "config.json").write_text(re.sub(r'"high": 1.0', f'"high": {number}', text))
        assert re.search('low <= 0 <= high|"high" holds (NaN|Infinity)', refusal(bertjax.load, folder))


@pytest.mark.parametrize("epsilon", [np.nan, np.inf, -1e-12, 0.0])
def test_the_epsilon_of_a_norm_is_a_small_number_above_0(folder: Path, epsilon: float):
    with pytest.raises(bertjax.UserError, match="layer_norm_eps"):
        TINY.replace(layer_norm_eps=epsilon)
    edit(folder, layer_norm_eps=epsilon)
    assert "layer_norm_eps" in refusal(bertjax.load, folder)


def test_an_answer_that_overflows_on_the_way_is_no_label(folder: Path):
    bundle = bertjax.load(folder)
    ends = {"pooler/bias": 9.0, "classifier/kernel": 3e38}
    huge = map_with_path(lambda path, leaf: np.full_like(leaf, ends[path]) if path in ends else leaf, bundle.params)
    large = bertjax.Bundle(bundle.config, huge, bundle.tokenizer)
    message = refusal(large.predict, ["a fine film", "a dull story"])
    assert message.startswith("the logits of 2 of 2 texts are not finite (the first is text 0)")


# --- what is left over -----------------------------------------------------------------------------------------------


def test_a_config_with_fewer_layers_than_the_weights_is_refused(folder: Path):
    edit(folder, num_hidden_layers=0)
    refusal(bertjax.load, folder)
    edit(folder, num_hidden_layers=1)
    message = refusal(bertjax.load, folder)
    assert message.startswith(
        f"{folder} holds 16 encoder tensors that its config.json does not describe: bert.encoder."
    )
    assert "number of layers" in message


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.0.crossattention.self.query.weight",
        "encoder.layer.2.output.dense.weight",
        "bert.embeddings.project.weight",
        "distilbert.transformer.layer.7.ffn.lin1.weight",
        "bert.encoder.layer.0.attention.self.distance_embedding.weight",
    ],
)
def test_any_other_part_of_an_encoder_is_refused(folder: Path, name: str):
    tensors = dict(load_file(folder / "model.safetensors"))
    save_file(tensors | {name: np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    assert f"does not describe: {name}" in refusal(bertjax.load, folder)


def test_fewer_layers_of_a_distilbert_and_of_our_own_type_are_refused_too(tmp_path: Path):
    for number, changes in enumerate(
        [
            {"model_type": "distilbert", "architecture": "DistilBertForSequenceClassification", "type_vocab_size": 0},
            {"head_size": 5},
        ]
    ):
        model, params = tiny(**changes)
        bertjax.save(bertjax.Bundle(model.config, params), tmp_path / str(number))
        folder = others(tmp_path / str(number))
        content = json.loads((folder / "config.json").read_text())
        edit(folder, n_layers=1) if number == 0 else edit(folder, bertjax=content["bertjax"] | {"num_hidden_layers": 1})
        assert "does not describe" in refusal(bertjax.load, folder)


def test_other_tensors_are_named_once_in_one_short_line(folder: Path, caplog):
    soundness.warn_of_unused.cache_clear()
    tensors = dict(load_file(folder / "model.safetensors"))
    known = ("cls.predictions.bias", "qa_outputs.weight", "bert.embeddings.position_ids", "fit_dense.weight")
    tensors |= {name: np.zeros(2, np.float32) for name in known}
    save_file(tensors, folder / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        bundle = bertjax.load(folder)
        assert "cls.predictions.bias" in bundle.ignored
        assert caplog.records == []
        save_file(tensors | {f"adapter.{i}": np.zeros(2, np.float32) for i in range(9)}, folder / "model.safetensors")
        for _ in range(3):
            bertjax.load(folder)
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: unused tensors (9): adapter.0, adapter.1, adapter.2, adapter.3 ..."
    ]


def test_a_bottleneck_that_nothing_reads_may_be_stored_and_one_that_is_read_may_not_be_left_out():
    stored = ["mobilebert.encoder.layer.0.bottleneck.attention.dense.weight"]
    for reads in ("input", "block"):
        config = TINY.replace(
            model_type="mobilebert",
            architecture="MobileBertForSequenceClassification",
            bottleneck=BottleneckConfig(6, attention_input=reads),
        )
        if reads == "input":
            soundness.require_use(stored, config, "here")
        else:
            assert "does not describe: mobilebert.encoder" in refusal(soundness.require_use, stored, config, "here")
