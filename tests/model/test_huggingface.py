"""Hugging Face folders: read as they are found in the world, written so that `transformers` computes the same."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import transformers.activations as theirs
from safetensors.numpy import load_file, save_file

import bertjax
from bertjax.model import ARCHITECTURES, BertConfig, ExitRule, Exits, LayerConfig, universal_config
from bertjax.model.config import COMPUTE_FIELDS
from bertjax.model.hf_config import FORMAT, SAME_ACTIVATION, config_from_json, config_to_json
from bertjax.params import count, flatten
from bertjax.quantize import Activation, Format, Quantization
from tests.model.reference import everything, random_batch, torch_logits, torch_model, written
from tests.model.tiny import TINY, apply, tiny, tiny_batch

SEQUENCE = "BertForSequenceClassification"
DISTILLED = "DistilBertForSequenceClassification"


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    """A classifier with three labels, as `transformers` writes it."""
    return written(torch_model(SEQUENCE, 1, num_labels=3), tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> dict[str, Any]:
    """What a folder of ours says of a model with something of everything."""
    exits = Exits((0,), exit_rule=ExitRule("margin", 0.5))
    quantization = Quantization((("pooler/dense/kernel", Format(4)),), (("pooler", Activation(8, -1.0, 2.0)),))
    layers = (LayerConfig(3, 10), LayerConfig(2, 7))
    return json.loads(json.dumps(config_to_json(TINY.replace(layers=layers, exits=exits, quantization=quantization))))


@pytest.fixture(scope="module")
def recurrent() -> dict[str, Any]:
    return json.loads(json.dumps(config_to_json(universal_config("official", num_hidden_layers=1))))


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder that stock code cannot express."""
    model, params = tiny(head_size=5)
    bertjax.save(bertjax.Bundle(model.config, params), tmp_path / "own")
    (tmp_path / "own" / "digests.json").unlink()  # which would say alone that something was changed
    return tmp_path / "own"


@pytest.fixture
def folder(stock, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(stock, tmp_path / "folder"))


def edit(folder: Path, **fields: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def retensor(folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Path:
    path = folder / "model.safetensors"
    save_file(change(dict(load_file(path))), path)
    return folder


def refusal(folder: Path, **options: Any) -> str:
    """The message that a user reads; short enough for a terminal."""
    with pytest.raises(bertjax.UserError) as caught:
        bertjax.load(folder, **options)
    message = str(caught.value)
    assert len(message.splitlines()) <= 5
    return message


def same_parameters(a: bertjax.Bundle, b: bertjax.Bundle) -> None:
    first, second = flatten(a.params), flatten(b.params)
    assert first.keys() == second.keys()
    for path, array in first.items():
        np.testing.assert_array_equal(array, second[path], err_msg=path)


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if "SentenceEmbedding" not in name])
def test_a_folder_read_and_written_is_bit_exact_and_opens_in_transformers(architecture, tmp_path):
    model = torch_model(architecture, 2)
    bundle = bertjax.load(written(model, tmp_path / "theirs"))
    bertjax.save(bundle, tmp_path / "ours")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[name], err_msg=name, strict=True)
    opened, info = getattr(transformers, architecture).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {name: list(found) for name, found in info.items() if found} == {}
    assert opened.config.id2label == model.config.id2label
    opened.set_attn_implementation("eager")
    batch = random_batch(model.config, 2, "right", 8)
    ours, theirs = everything(opened.eval(), batch), everything(model, batch)
    np.testing.assert_array_equal(ours["hidden_states"][-1], theirs["hidden_states"][-1])
    np.testing.assert_array_equal(ours["logits"], theirs["logits"])


def test_the_auto_classes_find_what_was_written(stock, tmp_path):
    bertjax.save(bertjax.load(stock), tmp_path / "ours")
    for auto, name in (("AutoModel", "BertModel"), ("AutoModelForSequenceClassification", SEQUENCE)):
        assert type(getattr(transformers, auto).from_pretrained(tmp_path / "ours")).__name__ == name


def test_a_model_made_here_gives_the_same_logits_in_transformers(tmp_path):
    model, params = tiny()
    bertjax.save(bertjax.Bundle(TINY, params), tmp_path / "made")
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "made").eval()
    assert opened.config.id2label == {0: "a", 1: "b", 2: "c"}
    theirs = torch_logits(opened, tiny_batch())
    assert theirs is not None
    np.testing.assert_allclose(apply(model, params, tiny_batch()).logits, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_the_config_survives(tmp_path):
    """Every field of ours that `transformers` also has, and the names of the labels; how to compute is not written."""
    config = TINY.replace(
        labels=("très bien", "no", "3"),
        problem_type="multi_label_classification",
        hidden_act="gelu_new",
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.0,
        classifier_dropout=0.3,
        dtype="bfloat16",
        attention="cudnn",
        remat=True,
    )
    bertjax.save(bertjax.Bundle(config, tiny()[1]), tmp_path / "one")
    content = json.loads((tmp_path / "one" / "config.json").read_text())
    assert content["model_type"] == "bert"
    assert not {"attention", "remat", "bertjax"} & content.keys()
    assert content["dtype"] == "float32"
    same = {name: getattr(TINY, name) for name in COMPUTE_FIELDS}
    assert bertjax.load(tmp_path / "one").config == config.replace(**same)


def test_a_ragged_model_is_refused_by_stock_code_and_reopens_here(tmp_path):
    changes: dict[str, Any] = {"layers": (LayerConfig(3, 10), LayerConfig(1, 4))}
    model, params = tiny(**changes, dtype="bfloat16", remat=True)
    bertjax.save(bertjax.Bundle(model.config, params), tmp_path / "ragged")
    content = json.loads((tmp_path / "ragged" / "config.json").read_text())
    assert content["model_type"] == "bertjax"
    assert not set(COMPUTE_FIELDS) & content["bertjax"].keys()
    with pytest.raises(ValueError, match="model type `bertjax`"):
        transformers.AutoModel.from_pretrained(tmp_path / "ragged")
    again = bertjax.load(tmp_path / "ragged")
    assert again.config == TINY.replace(**changes)
    same_parameters(again, bertjax.Bundle(model.config, params))
    plain, _ = tiny(**changes)
    np.testing.assert_array_equal(
        apply(again.model, again.params, tiny_batch()).logits, apply(plain, params, tiny_batch()).logits
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"head_size": 5},
        {"classifier_activation": "relu"},
        {"layers": (LayerConfig(3, 8), LayerConfig(3, 8))},
        {"model_type": "distilbert", "architecture": "DistilBertModel", "type_vocab_size": 0, "layer_norm_eps": 1e-6},
    ],
)
def test_what_stock_code_would_compute_differently_has_a_type_of_its_own(changes, tmp_path):
    _, params = tiny(**changes)
    config = TINY.replace(**changes)
    bertjax.save(bertjax.Bundle(config, params), tmp_path / "own")
    assert json.loads((tmp_path / "own" / "config.json").read_text())["model_type"] == "bertjax"
    assert bertjax.load(tmp_path / "own").config == config


# --- what is found in the world --------------------------------------------------------------------------------------


def test_shards_are_read(stock, tmp_path):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(stock)
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    same_parameters(bertjax.load(tmp_path / "shards"), bertjax.load(stock))


def test_old_names_buffers_and_missing_prefixes_are_understood(folder):
    """gamma and beta, a stored `position_ids`, and a bare encoder whose names begin without `bert.`."""
    expected = bertjax.load(folder, architecture="BertModel")

    def old(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        bare = {name.removeprefix("bert."): array for name, array in tensors.items() if name.startswith("bert.")}
        renamed = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
            for name, array in bare.items()
        }
        return renamed | {"embeddings.position_ids": np.arange(9)[None]}

    bundle = bertjax.load(edit(retensor(folder, old), architectures=["BertModel"]))
    assert (bundle.newly_initialized, bundle.ignored) == ((), ())
    same_parameters(bundle, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(dtype, stock, tmp_path):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(stock).to(dtype)
    bundle = bertjax.load(written(model, tmp_path))
    kernel = bundle.params["classifier"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, model.classifier.weight.detach().float().numpy().T)


def test_pretraining_folders_open_as_a_masked_language_model_where_one_is_asked_for(tmp_path):
    model = torch_model("BertForPreTraining", 3)
    bundle = bertjax.load(written(model, tmp_path), architecture="BertForMaskedLM")
    assert bundle.newly_initialized == ()
    assert set(bundle.ignored) == {
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "cls.seq_relationship.bias",
        "cls.seq_relationship.weight",
    }
    assert bertjax.load(tmp_path, architecture="BertForNextSentencePrediction").newly_initialized == ()


def test_a_config_that_says_little_means_what_transformers_takes_it_for(folder):
    """No `architectures`, no labels, and nulls: the bare encoder, with two labels of no name."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for field in ("architectures", "id2label", "label2id", "layer_norm_eps", "initializer_range"):
        content.pop(field)
    path.write_text(json.dumps(content | {"pad_token_id": None, "position_embedding_type": "absolute"}))
    bundle = bertjax.load(folder)
    assert (bundle.config.architecture, bundle.config.layer_norm_eps) == ("BertModel", 1e-12)
    assert bundle.config.labels == ("LABEL_0", "LABEL_1")
    assert bundle.ignored == ("classifier.bias", "classifier.weight")


def test_the_dropout_of_each_distilbert_head_is_its_own(tmp_path):
    fields = {"dropout": 0.1, "seq_classif_dropout": 0.3, "qa_dropout": 0.4, "num_labels": 2}
    written(torch_model("DistilBertForSequenceClassification", 4, **fields), tmp_path)
    for task, rate in (("SequenceClassification", 0.3), ("QuestionAnswering", 0.4), ("TokenClassification", 0.1)):
        assert bertjax.load(tmp_path, architecture=f"DistilBertFor{task}").config.head_dropout == rate


# --- another head ----------------------------------------------------------------------------------------------------


def test_another_head_is_drawn_and_the_encoder_kept(stock):
    whole = flatten(bertjax.load(stock).params)
    bundle = bertjax.load(stock, architecture="BertForTokenClassification", seed=1)
    assert bundle.newly_initialized == ("classifier/bias", "classifier/kernel")
    assert not np.array_equal(bundle.params["classifier"]["kernel"], whole["classifier/kernel"])
    np.testing.assert_array_equal(
        flatten(bundle.params)["embeddings/word/embedding"], whole["embeddings/word/embedding"]
    )
    again, other = (bertjax.load(stock, architecture="BertForTokenClassification", seed=seed) for seed in (1, 2))
    same_parameters(bundle, again)
    assert not np.array_equal(bundle.params["classifier"]["kernel"], other.params["classifier"]["kernel"])


def test_other_labels_draw_the_classifier_alone_and_as_many_rename_it(stock):
    five = bertjax.load(stock, labels=("a", "b", "c", "d", "e"))
    assert five.newly_initialized == ("classifier/bias", "classifier/kernel")
    assert five.params["classifier"]["kernel"].shape[1] == 5
    renamed = bertjax.load(stock, labels=("x", "y", "z"))
    assert (renamed.newly_initialized, renamed.config.labels) == ((), ("x", "y", "z"))
    same_parameters(renamed, bertjax.load(stock))


def test_answers_have_two_outputs_whatever_the_labels_were(stock, tmp_path):
    bundle = bertjax.load(stock, architecture="BertForQuestionAnswering")
    bertjax.save(bundle, tmp_path / "qa")
    opened: Any = transformers.BertForQuestionAnswering.from_pretrained(tmp_path / "qa", output_loading_info=True)
    assert not any(opened[1].values())


# --- refusals --------------------------------------------------------------------------------------------------------


def test_an_unsupported_type_is_refused_in_one_line(folder):
    message = refusal(edit(folder, model_type="electra"))
    assert message.endswith(
        'holds a model of type "electra"; supported types: bert, distilbert, albert, mobilebert, roberta, xlm-roberta, '
        "camembert, bertjax."
    )
    assert "\n" not in message


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("position_embedding_type", "relative_key", 'is "relative_key"; supported: "absolute"'),
        ("is_decoder", True, "is true; supported: false"),
        ("add_cross_attention", True, "is true; supported: false"),
        ("hidden_act", "silu", 'is "silu"; expected one of gelu, gelu_new, relu'),
        ("quantization_config", {"load_in_8bit": True}, "is {'load_in_8bit': True}; supported: none"),
    ],
)
def test_what_this_encoder_does_not_compute_is_refused(field, value, said, folder):
    assert refusal(edit(folder, **{field: value})).endswith(f"config.json: {field} {said}.")


def test_an_untied_decoder_is_refused_where_it_matters(folder):
    bertjax.load(edit(folder, tie_word_embeddings=False))
    assert "tie_word_embeddings is false; supported: true" in refusal(folder, architecture="BertForMaskedLM")


def test_an_unknown_head_is_answered_with_the_known_ones(folder):
    assert "'BertForMultipleChoice' is not one of: BertModel" in refusal(
        edit(folder, architectures=["BertForMultipleChoice"])
    )
    assert "begins with Bert" in refusal(folder, architecture="DistilBertModel")


def test_a_pickle_is_refused_with_the_command_that_converts_it(folder):
    """The command keeps the head; it was run by hand on such a folder."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    message = refusal(folder)
    assert "holds only pytorch_model.bin, a pickle, and loading a pickle runs code" in message
    command = message.splitlines()[-1].strip()
    assert command.startswith('python -c "import transformers as t; ')
    compile(command.removeprefix('python -c "').removesuffix('"'), "command", "exec")


def test_missing_weights_and_missing_tensors_are_named(folder):
    retensor(folder, lambda tensors: {k: v for k, v in tensors.items() if "layer.0.attention.self.query" not in k})
    retensor(folder, lambda tensors: tensors | {"bert.something.new": np.zeros(2, np.float32)})
    message = refusal(folder)
    assert "lacks 2 parameters of a BertForSequenceClassification" in message
    assert "encoder/layer_0/attention/query/kernel" in message
    assert "Unused tensors: bert.something.new" in message
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors; expected a Hugging Face folder with safetensors weights" in refusal(folder)


def test_a_head_that_should_be_there_is_not_drawn_in_silence(folder):
    retensor(folder, lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("classifier")})
    assert "lacks 2 parameters of a BertForSequenceClassification: classifier/bias, classifier/kernel." in refusal(
        folder
    )


@pytest.mark.parametrize("projection", ["fit_dense.weight", "fit_denses.0.weight"])
def test_a_classifier_of_tinyberts_authors_has_a_relu_behind_the_pooler(projection, tmp_path):
    """As their code writes it: a projection beside the model, no word of it in the config. Plain `transformers` opens
    the same folder and gives other logits, so what is saved here is none of its models any more."""
    model = torch_model(SEQUENCE, 4, num_labels=3)
    batch = random_batch(model.config, 4, "right", 8)
    published = retensor(written(model, tmp_path / "tiny"), lambda t: t | {projection: np.zeros((4, 2), np.float32)})
    edit(published, architectures=None)
    encoder: Any = model.bert
    classifier: Any = model.classifier
    pooled = encoder(**{name: torch.tensor(array).long() for name, array in batch.items()}).pooler_output
    expected = (torch.relu(pooled) @ classifier.weight.T + classifier.bias).detach()
    bundle = bertjax.load(published, architecture=SEQUENCE, labels=("a", "b", "c"))
    assert bundle.ignored == (projection,)
    assert bundle.config.head_dropout == 0
    logits = apply(bundle.model, bundle.params, batch).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(logits - torch_logits(model, batch).detach().numpy()).max() > 0.1  # type: ignore[union-attr]
    bertjax.save(bundle, tmp_path / "ours")
    again = bertjax.load(tmp_path / "ours")
    np.testing.assert_array_equal(apply(again.model, again.params, batch).logits, logits)
    assert (
        bertjax.load(tmp_path / "ours", architecture="BertForTokenClassification").config.classifier_activation is None
    )
    assert bertjax.load(published, architecture=SEQUENCE, labels="abc", classifier_activation=None).config == (
        bundle.config.replace(classifier_activation=None)
    )


def test_extra_tensors_are_listed(folder):
    retensor(folder, lambda tensors: tensors | {"cls.other": np.zeros(2, np.float32)})
    assert bertjax.load(folder).ignored == ("cls.other",)


def test_a_truncated_file_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} is damaged" in refusal(folder)
    path.write_bytes(b"")
    assert f"{path} is damaged" in refusal(folder)


def test_shapes_that_contradict_the_config_are_named(folder):
    config = json.loads((folder / "config.json").read_text())
    message = refusal(edit(folder, intermediate_size=999))
    stored = (config["intermediate_size"], config["hidden_size"])
    assert "bert.encoder.layer.0.intermediate.dense" in message
    assert "999" in message
    assert str(stored) in message or str(stored[:1]) in message


def test_integers_are_not_taken_for_weights(folder):
    retensor(folder, lambda tensors: tensors | {"classifier.weight": tensors["classifier.weight"].astype(np.int8)})
    assert "classifier.weight holds int8 numbers" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"weight_map": {"a": "../elsewhere/model.safetensors"}}', "names a file outside its folder, ../elsewhere"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "names a file outside its folder, /etc/passwd"),
        ('{"weight_map": {}}', "has no weight_map"),
        ("[]", "expected a JSON object, found []"),
        ("{", "not valid JSON"),
        ('{"weight_map": {"a": "model-1.safetensors"}}', "has no model-1.safetensors"),
    ],
)
def test_a_bad_index_is_refused(content, said, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    assert said in refusal(folder)


def test_a_bad_config_is_refused(folder):
    (folder / "config.json").write_text("{not json")
    assert "config.json: not valid JSON" in refusal(folder)
    (folder / "config.json").unlink()
    assert "has no config.json, so it is not a model folder (found: model.safetensors)" in refusal(folder)


def test_a_folder_of_a_later_version_is_refused(own):
    fields = json.loads((own / "config.json").read_text())["bertjax"]
    assert fields["format"] == FORMAT
    edit(own, bertjax=fields | {"format": FORMAT + 1, "spin": 1})
    assert f"written by a newer bertjax (format {FORMAT + 1}; this version reads up to {FORMAT})" in refusal(own)
    edit(own, bertjax=fields | {"spin": 1})
    assert 'bertjax has a field "spin" that this version does not know' in refusal(own)
    edit(own, bertjax=fields | {"dtype": "bfloat16"})
    assert "bertjax.dtype is a setting of a run, not of a stored model" in refusal(own)
    edit(own, bertjax=None)
    assert "config.json: bertjax is null; expected an object with the fields of this model" in refusal(own)


def test_a_vocabulary_larger_than_the_table_is_refused(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(100))]
    (folder / "vocab.txt").write_text("\n".join(words))
    assert "a tokenizer with 105 tokens" in refusal(folder)


def test_the_real_model_has_the_parameters_it_is_known_for():
    bundle = bertjax.load("demo")
    assert count(bundle.params) == 22_713_216
    assert (bundle.newly_initialized, bundle.ignored) == ((), ())
    assert bundle.config == BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)


# --- every value through one door ------------------------------------------------------------------------------------

STOCK = {
    "model_type": "bert",
    "architectures": [SEQUENCE],
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "vocab_size": 43,
    "id2label": {"0": "neg", "1": "pos"},
}


def not_read(content: dict[str, Any]) -> str:
    """What is said of a config, in one line."""
    with pytest.raises(bertjax.UserError) as caught:
        config_from_json(content, "config.json")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    assert message.startswith("config.json")
    return message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": "2"}, 'num_hidden_layers is "2"; expected a whole number from 0 to 10000'),
        ({"num_hidden_layers": [2]}, "num_hidden_layers is [2]; expected a whole number"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0; expected a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is true; expected a whole number"),
        ({"num_hidden_layers": {}}, "num_hidden_layers is {}; expected a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; expected at least 1"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1; expected a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; expected a whole number from 0 to 10000"),
        ({"vocab_size": 10**30}, "vocab_size is 1000000000000000000000000000000; expected a whole number"),
        ({"vocab_size": 0}, "vocab_size is 0; expected a whole number from 1"),
        ({"hidden_act": ["gelu"]}, "hidden_act is ['gelu']; expected one of gelu, gelu_new, relu"),
        ({"hidden_act": "gelu_10"}, 'hidden_act is "gelu_10"; expected one of'),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps is -1e-12; expected a number of at least 1e-30, below 1"),
        ({"layer_norm_eps": 1e30}, "layer_norm_eps is 1e+30; expected a number of at least 1e-30, below 1"),
        ({"layer_norm_eps": "1e-12"}, 'layer_norm_eps is "1e-12"; expected a number'),
        ({"hidden_dropout_prob": 1}, "hidden_dropout_prob is 1; expected a number of at least 0, below 1"),
        ({"pad_token_id": 43}, "pad_token_id is 43; expected an id below 43, the vocab_size"),
        ({"pad_token_id": -1}, "pad_token_id is -1; expected a whole number"),
        ({"architectures": 5}, "architectures is 5; expected a list (Unicode text, ...)"),
        ({"architectures": [5]}, "architectures[0] is 5; expected Unicode text"),
        ({"architectures": "BertModel"}, 'architectures is "BertModel"; expected a list'),
        ({"model_type": ["bert"]}, "a model of type ['bert']; supported types"),
        ({"model_type": None}, "a model of type null; supported types"),
        ({"is_decoder": "yes"}, 'is_decoder is "yes"; supported: false'),
        ({"problem_type": "regression"}, "regression has one output, and the model has 2 labels"),
        ({"problem_type": "ranking"}, 'problem_type is "ranking"; expected one of regression'),
        ({"id2label": None, "num_labels": 10**10}, "num_labels is 10000000000; expected a whole number from 1 to 1000"),
        ({"id2label": None, "num_labels": "2"}, 'num_labels is "2"; expected a whole number'),
        ({"model_type": "distilbert", "n_layers": "2"}, 'n_layers is "2"; expected a whole number'),
        ({"model_type": "distilbert", "seq_classif_dropout": 7, "architectures": [DISTILLED]},
         "seq_classif_dropout is 7; expected a number of at least 0, below 1"),
        ({"model_type": "mobilebert", "use_bottleneck": "no"}, 'use_bottleneck is "no"; expected true or false'),
        ({"model_type": "mobilebert", "trigram_input": 1}, "trigram_input is 1; expected true or false"),
        ({"model_type": "albert", "architectures": ["AlbertModel"], "inner_group_num": 5001},
         "inner_group_num is 5001; num_hidden_layers x inner_group_num makes 10002"),
    ],
)  # fmt: skip
def test_a_value_that_no_field_holds_is_named(changes, said):
    assert said in not_read(STOCK | changes)


@pytest.mark.parametrize(
    ("id2label", "said"),
    [
        (
            {"1": "neg", "2": "pos"},
            "id2label is {'1': 'neg', '2': 'pos'}; expected the name of each output by its id",
        ),
        ({"0": "neg", "2": "pos"}, "expected the name of each output by its id, from 0"),
        ({"neg": 0, "pos": 1}, "expected the name of each output by its id, from 0"),
        (["neg", "pos"], "id2label is ['neg', 'pos']; expected the name of each output by its id, from 0"),
        ({"0": "neg", "01": "pos"}, "expected the name of each output by its id, from 0"),
        ({"0": "neg", "1_0": "pos"}, "expected the name of each output by its id, from 0"),
        ({}, "id2label is {}; expected the name of each output by its id, from 0"),
        ("neg", 'id2label is "neg"; expected the name of each output by its id, from 0'),
        ({"0": "same", "1": "same"}, 'id2label has the name "same" more than once; expected different names'),
        ({"0": "neg", "1": None}, "id2label.1 is null; expected Unicode text or a whole number"),
        ({"0": "neg", "1": ["pos"]}, "id2label.1 is ['pos']; expected Unicode text or a whole number"),
        ({"0": "neg", "1": "\ud800"}, r'id2label.1 is "\ud800"; expected Unicode text or a whole number'),
    ],
)
def test_names_of_outputs_are_never_guessed(id2label, said):
    assert said in not_read(STOCK | {"id2label": id2label})


def test_names_of_outputs_may_stand_in_any_order_and_be_numbers():
    """As `transformers` takes them: by id."""
    for names in ({"1": "pos", "0": "neg"}, {"0": 5, "1": 6}):
        expected: Any = transformers.BertConfig(id2label=names).id2label  # type: ignore[arg-type]
        found = config_from_json(STOCK | {"id2label": names}, "").labels
        assert found == tuple(str(expected[number]) for number in range(2))


@pytest.mark.parametrize(
    ("path", "given", "said"),
    [
        ("exits.head", "evil", 'bertjax.exits.head is "evil"; expected one of own_pooler, shared_pooler, shared'),
        ("exits.after", [7], "exits is Exits(after=(7,)"),
        ("exits.after", [[0]], "bertjax.exits.after[0] is [0]; expected a whole number"),
        ("exits.exit_rule.threshold", float("nan"), "bertjax.exits.exit_rule.threshold is NaN; expected a number"),
        ("exits.exit_rule.tolerance", -1, "bertjax.exits.exit_rule.tolerance is -1; expected a number of at least 0"),
        ("exits.exit_rule.rule", 3, "bertjax.exits.exit_rule.rule is 3; expected one of entropy"),
        ("exits.exit_rule.spin", 3, 'bertjax.exits.exit_rule has a field "spin" that this version does not know'),
        ("exits.exit_rule", [], "bertjax.exits.exit_rule is []; expected an object"),
        ("exits", {}, "bertjax.exits lacks the field after"),
        ("layers", 5, "bertjax.layers is 5; expected a list"),
        ("layers.0.intermediate_size", "10", 'bertjax.layers[0].intermediate_size is "10"; expected a whole number'),
        ("layers.1.attention", -1, "bertjax.layers[1].attention is -1; expected a whole number"),
        ("quantization.weights", [["a"]], "bertjax.quantization.weights[0] is ['a']; expected a list"),
        ("quantization.weights.0.1.bits", 5, "bits is 5; expected"),
        ("quantization.weights.0.1.scheme", "evil", 'scheme is "evil"; expected one of symmetric'),
        ("quantization.activations.0.1.low", 1.0, "the activation range is 1.0 to 2.0; expected finite numbers"),
        ("quantization.activations.0.0", 3, "bertjax.quantization.activations[0][0] is 3; expected Unicode text"),
        ("format", "1", 'bertjax.format is "1"; expected a whole number'),
        ("norm", None, "bertjax.norm is null; expected one of post, pre"),
        ("labels", ["a", "b", 3], "bertjax.labels[2] is 3; expected Unicode text"),
    ],
)
def test_a_value_of_ours_is_named_with_its_place_at_every_depth(path, given, said, stored):
    content = json.loads(json.dumps(stored | {"id2label": None}))
    branch: Any = content["bertjax"]
    *way, last = path.split(".")
    for name in way:
        branch = branch[int(name) if isinstance(branch, list) else name]
    branch[int(last) if isinstance(branch, list) else last] = given
    assert said in not_read(content)


def without(content: Any) -> Any:
    """Every way to take one key from an object, at any depth."""
    if isinstance(content, dict):
        for key, child in content.items():
            yield key, {name: other for name, other in content.items() if name != key}
            yield from ((f"{key}.{path}", content | {key: smaller}) for path, smaller in without(child))
    if isinstance(content, list):
        for number, child in enumerate(content):
            yield from (
                (f"{number}.{path}", [*content[:number], less, *content[number + 1 :]]) for path, less in without(child)
            )


def test_a_field_that_an_older_folder_lacks_takes_its_default_at_every_depth(stored, recurrent):
    needed = re.compile(
        r"(^|\.)(num_attention_heads|intermediate_size|after|low|high)$|^(model_type|num_hidden_layers|hidden_size)$"
    )
    for content in (stored, recurrent):
        for path, ours in without(content["bertjax"]):
            try:
                config_from_json(content | {"bertjax": ours}, "")
            except bertjax.UserError:
                if not needed.search(path):
                    raise
    halting = recurrent["bertjax"]["recurrence"]["halting"]
    assert {"epsilon", "scope"} <= halting.keys()


def test_activations_by_any_name_of_the_same_function_are_read_and_no_others():
    """Held against each function of `transformers`, in float64: the tanh forms differ in the eleventh digit of a
    constant, which float32 has not."""
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    ours = {name: theirs.ACT2FN[name](x) for name in ("gelu", "gelu_new", "relu")}
    for name in theirs.ACT2CLS:
        function = theirs.ACT2FN[name]
        computed = None if list(function.parameters()) else function(x)
        same = [] if computed is None else [known for known in ours if (computed - ours[known]).abs().max() < 1e-9]
        content = STOCK | {"hidden_act": name}
        if not same:
            assert "hidden_act is" in not_read(content)
            continue
        assert [config_from_json(content, "").hidden_act] == same
        assert SAME_ACTIVATION.get(name, name) in ours


def test_numbers_of_types_that_numpy_has_not_are_named(folder):
    header = {"classifier.weight": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert "classifier.weight has dtype F8_E4M3; expected floating point of 16 bits" in refusal(folder)


@pytest.mark.parametrize("spoilt", [b"", b"\x10", b"\xff" * 8, b"\x02" + bytes(7) + b"{", b"\x02" + bytes(7) + b"[]"])
def test_a_header_that_is_cut_or_no_header_is_damage(spoilt, folder):
    (folder / "model.safetensors").write_bytes(spoilt)
    assert "model.safetensors is damaged" in refusal(folder)
