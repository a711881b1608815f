"""What our model computes, and its gradients, against PyTorch `transformers`.

Weights are made in PyTorch, written by `save_pretrained` and read by `bertjax.load`, so every test also goes through
the folder that a user would have. Without torch these tests fail: a green run means that parity was checked.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import bertjax
from bertjax.bundle import Bundle
from bertjax.model import ARCHITECTURES, ModelOutput, abstract_params
from bertjax.model.huggingface import parameters_from_tensors
from bertjax.params import flatten
from tests.model.reference import (
    PADDINGS,
    everything,
    longest,
    random_batch,
    tensors,
    torch_logits,
    torch_model,
    written,
)
from tests.tolerances import OTHER_FRAMEWORK, REAL_WEIGHTS

SENTENCES = (
    "a quiet masterpiece",
    "the plot, such as it is, never once surprises anybody who has seen a film before; still, it moves along nicely",
    "Unwatchable!",
    "two hours of my life (and 14 dollars) that i will not get back",
)
ELSEWHERE = "MobileBert", "SentenceEmbedding"  # see test_bottleneck.py, test_sentence.py
MOBILE_FREE = (name for name in ARCHITECTURES if not any(part in name for part in ELSEWHERE))
CASES = [(name, seed) for seed, name in enumerate(MOBILE_FREE)] + [
    ("BertModel", 11),
    ("BertForSequenceClassification", 12),
    ("BertForTokenClassification", 13),
    ("DistilBertForSequenceClassification", 14),
    *((name, seed) for name in ("AlbertModel", "AlbertForPreTraining") for seed in (40, 41, 42, 43)),
]


def run(bundle: Bundle, batch: dict[str, np.ndarray]) -> ModelOutput:
    return jax.jit(lambda params, batch: bundle.model.apply({"params": params}, **batch))(bundle.params, batch)


def assert_equal(ours: ModelOutput, theirs: dict, mask: np.ndarray) -> None:
    """Every array that the reference has, and nothing in ours that it does not have."""
    named = {"hidden_states": ours.hidden_states, "scores": ours.attention_scores}
    for name, arrays in named.items():
        for i, (mine, reference) in enumerate(zip(arrays, theirs[name], strict=True)):
            np.testing.assert_allclose(mine, reference, **OTHER_FRAMEWORK, err_msg=f"{name} {i}")
    for i, (scores, reference) in enumerate(zip(ours.attention_scores, theirs["probabilities"], strict=True)):
        masked = jax.nn.softmax(jnp.where(mask[:, None, None, :] > 0, scores, -jnp.inf), axis=-1)
        np.testing.assert_allclose(masked, reference, **OTHER_FRAMEWORK, err_msg=f"probabilities {i}")
    for name in ("pooled", "logits", "sentence_logits"):
        mine, reference = getattr(ours, name), theirs[name]
        assert (mine is None) == (reference is None), name
        if reference is not None:
            np.testing.assert_allclose(mine, reference, **OTHER_FRAMEWORK, err_msg=name)


@pytest.mark.parametrize(("architecture", "seed"), CASES)
def test_all_that_is_computed_equals_torch(architecture, seed, tmp_path):
    model = torch_model(architecture, seed)
    most = longest(model.config)
    batch = random_batch(model.config, seed, PADDINGS[seed // 2 % 3], most if seed % 3 == 0 else most - 2)
    bundle = bertjax.load(written(model, tmp_path))
    assert (bundle.newly_initialized, bundle.ignored) == ((), ())
    assert_equal(run(bundle, batch), everything(model, batch), batch["attention_mask"])


def test_regression_equals_torch(tmp_path):
    model = torch_model("BertForSequenceClassification", 20, num_labels=1, problem_type="regression")
    batch = random_batch(model.config, 20, "right", 9)
    bundle = bertjax.load(written(model, tmp_path))
    assert bundle.config.problem_type == "regression"
    assert np.asarray(run(bundle, batch).logits).shape == (3, 1)
    assert_equal(run(bundle, batch), everything(model, batch), batch["attention_mask"])


def test_explicit_positions_and_what_is_left_out_equal_torch(tmp_path):
    """Left padding with positions that count from the first real token; and ids alone, as a quick look would do."""
    model = torch_model("BertModel", 21)
    bundle = bertjax.load(written(model, tmp_path))
    batch = random_batch(model.config, 21, "left", 9)
    batch["position_ids"] = np.maximum(batch["attention_mask"].cumsum(axis=1) - 1, 0).astype(np.int32)
    assert_equal(run(bundle, batch), everything(model, batch), batch["attention_mask"])
    alone = {"input_ids": batch["input_ids"]}
    assert_equal(run(bundle, alone), everything(model, alone), np.ones((3, 9)))


def sentences(bundle: Bundle) -> dict[str, np.ndarray]:
    """Real text as real ids, padded on the right."""
    assert bundle.tokenizer is not None
    ids = bundle.tokenizer.encode(SENTENCES).ids
    batch = np.zeros((len(ids), 32), np.int32)
    for row, tokens in zip(batch, ids, strict=True):
        row[: len(tokens)] = tokens
    return {"input_ids": batch, "attention_mask": (batch > 0).astype(np.int32), "token_type_ids": 0 * batch}


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return bertjax.load("demo")


def test_the_real_weights_give_the_hidden_states_of_torch(demo, tmp_path):
    bertjax.save(demo, tmp_path / "demo")
    batch = sentences(demo)
    model = transformers.AutoModel.from_pretrained(tmp_path / "demo", attn_implementation="eager").eval()
    theirs, ours = everything(model, batch), run(demo, batch)
    real = batch["attention_mask"] > 0  # In padding both are three times as far from the same in float64.
    for mine, reference in zip(ours.hidden_states, theirs["hidden_states"], strict=True):
        np.testing.assert_allclose(np.asarray(mine)[real], reference[real], **REAL_WEIGHTS)
    np.testing.assert_allclose(np.asarray(ours.pooled), theirs["pooled"], **REAL_WEIGHTS)
    assert_equal(ours, theirs, batch["attention_mask"])


def torch_gradients(model: transformers.PreTrainedModel, batch: dict[str, np.ndarray], labels: np.ndarray) -> dict:
    logits = torch_logits(model, batch)
    assert logits is not None
    torch.nn.functional.cross_entropy(logits.flatten(0, -2), torch.tensor(labels).flatten()).backward()
    return {name: np.asarray(parameter.grad) for name, parameter in model.named_parameters(remove_duplicate=False)}


def our_gradients(bundle: Bundle, batch: dict[str, np.ndarray], labels: np.ndarray) -> dict:
    def loss(params):
        logits = bundle.model.apply({"params": params}, **batch).logits  # type: ignore[union-attr]
        rows, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        picked = jnp.take_along_axis(jax.nn.log_softmax(rows), np.maximum(targets, 0)[:, None], axis=1)[:, 0]
        return -jnp.sum(picked * (targets >= 0)) / (targets >= 0).sum()

    return jax.jit(jax.grad(loss))(bundle.params)


def assert_gradients_equal(bundle: Bundle, ours: dict, theirs: dict) -> None:
    """1e-4 of the largest entry of each parameter's gradient.

    A bias of the keys shifts all scores of a query alike, which softmax does not see: its true gradient is 0, and what
    both frameworks compute for it is rounding.
    """
    expected, missing, extra = parameters_from_tensors(theirs, abstract_params(bundle.config), bundle.config)
    assert (missing, extra) == ([], [])
    mine, reference = flatten(ours), flatten(expected)
    assert mine.keys() == reference.keys()
    largest = max(np.abs(gradient).max() for gradient in reference.values())
    for path, gradient in reference.items():
        allowed = 1e-6 * largest if path.endswith("key/bias") else 1e-4 * np.abs(gradient).max()
        assert np.abs(mine[path] - gradient).max() <= allowed, path


@pytest.mark.parametrize(
    ("architecture", "seed"),
    [
        ("BertForSequenceClassification", 30),
        ("BertForMaskedLM", 31),
        ("DistilBertForTokenClassification", 32),
        ("AlbertForMaskedLM", 33),
        ("RobertaForSequenceClassification", 34),
        ("XLMRobertaForMaskedLM", 35),
        ("CamembertForTokenClassification", 36),
    ],
)
def test_gradients_equal_torch(architecture, seed, tmp_path):
    model = torch_model(architecture, seed, num_labels=3)
    batch = random_batch(model.config, seed, "right", 9)
    padding = model.config.pad_token_id  # whose embeddings torch keeps from learning: not in the text
    batch["input_ids"] += (batch["input_ids"] == padding) * (1 if padding == 0 else -1)
    bundle = bertjax.load(written(model, tmp_path))
    classes = model.config.vocab_size if architecture.endswith("MaskedLM") else 3
    labels = np.random.default_rng(seed).integers(0, classes, (3,) if "Sequence" in architecture else (3, 9))
    if labels.ndim == 2:
        labels = np.where(batch["attention_mask"], labels, -100)
    gradients = our_gradients(bundle, batch, labels)
    assert_gradients_equal(bundle, gradients, torch_gradients(model, batch, labels))


@pytest.mark.slow
def test_gradients_of_the_real_weights_equal_torch(tmp_path):
    bundle = bertjax.load("demo", architecture="BertForSequenceClassification", labels=("rotten", "fresh"))
    bertjax.save(bundle, tmp_path / "demo")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "demo").eval()
    batch, labels = sentences(bundle), np.array([1, 0, 0, 1])
    ours, theirs = run(bundle, batch).logits, model(**tensors(model, batch)).logits.detach()
    np.testing.assert_allclose(np.asarray(ours), theirs, **REAL_WEIGHTS)
    assert_gradients_equal(bundle, our_gradients(bundle, batch, labels), torch_gradients(model, batch, labels))
