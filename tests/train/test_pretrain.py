"""Pre-training: PyTorch's losses step by step, micro-batches, packing, and the scripts as a user runs them."""

import json
import subprocess
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import bertjax
from bertjax.engine.command_line import parse
from bertjax.engine.optimiser import build_optimiser, learning_rate_schedule
from bertjax.jobs.pretrain import evaluate, learning, open_bundle
from bertjax.learn import Update
from bertjax.learn.step import init_state, make_step
from bertjax.model import init_params
from bertjax.quantize import quantise_weights
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.pretrain import Config, Shape, Text
from bertjax.text.batches import inputs_of, places_of
from bertjax.text.corpus import build_corpus
from bertjax.text.masking import Masking
from bertjax.text.pretraining import PretrainingRows, lay_out, pretraining_batches
from tests.model.reference import torch_model, written
from tests.text.test_corpus import write_documents
from tests.text.tiny import tiny_tokenizer
from tests.train.tiny import ROOT, metrics, run, script, weights, write_model
from train.pretrain import main

LONGEST = 24
VOCABULARY = tiny_tokenizer().vocab_size


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("BERTJAX_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return str(write_documents(tmp_path_factory.mktemp("text") / "text.txt", documents=60))


def rows_of(text: str, sentences: Any = "order") -> PretrainingRows:
    return PretrainingRows(
        build_corpus(text, tiny_tokenizer(), LONGEST - 3), tiny_tokenizer(), LONGEST, sentences, Masking(), 0
    )


# --- the maths -------------------------------------------------------------------------------------------------------


def torch_losses(model, batches: list[dict], rate) -> list[float]:
    """AdamW as BERT uses it, on the same batches: what `transformers` says the loss is, step by step."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    for step, batch in enumerate(batches):
        labels = np.full(batch["input_ids"].shape, -100)
        for line, places in enumerate(batch["masked_weights"] > 0):
            labels[line, batch["masked_positions"][line, places]] = batch["masked_labels"][line, places]
        order = np.where(batch["sentence_weights"] > 0, batch["sentence_labels"], -100)[:, 0]
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: torch.tensor(batch[name], dtype=torch.long) for name in names}
        loss = model(**inputs, labels=torch.tensor(labels), sentence_order_label=torch.tensor(order).long()).loss
        for group in optimiser.param_groups:
            group["lr"] = float(rate(step))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
def test_fifty_steps_give_the_losses_of_albert_in_torch(text: str, tmp_path: Path):
    fields = {
        "vocab_size": VOCABULARY,
        "type_vocab_size": 2,
        "max_position_embeddings": LONGEST,
        "layer_norm_eps": 1e-12,
    }
    none = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"), 0.0)
    theirs = torch_model("AlbertForPreTraining", 41, **fields, **none, num_hidden_layers=3, num_hidden_groups=1)
    bundle = bertjax.load(written(theirs, tmp_path / "albert"))
    batches = list(islice(pretraining_batches(rows_of(text), 16), 50))
    optimiser = Optimiser(learning_rate=3e-3)
    tx = build_optimiser(optimiser, 50, {"params": bundle.params, "extra": {}})
    objective = learning(Config(), bundle, None, 50).objective
    step, state = jax.jit(make_step(objective, tx, jax.random.key(0))), init_state(bundle.params, {}, {}, tx)
    ours = []
    for batch in batches:
        state, measured = step(state, batch, {})
        ours.append(float(measured["loss"]))
    expected = torch_losses(theirs, batches, learning_rate_schedule(optimiser, 50))
    assert expected[-1] < expected[0] - 0.3
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)


def small(text: str, **changes: Any) -> Config:
    shape = Shape(
        embedding_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        hidden_dropout=0.0, attention_dropout=0.0, max_position_embeddings=LONGEST,
    )  # fmt: skip
    data, shape = Text(train=text, eval=text, max_length=LONGEST), Shape() if "model" in changes else shape
    return Config(**{"shape": shape, "data": data, "vocab_size": 50, "batch_size": 8, **changes})


def gradient(bundle: bertjax.Bundle, batch: dict, micro_batches: int = 1) -> Any:
    objective, tx = learning(Config(), bundle, None, 1).objective, optax.sgd(1.0)
    state = init_state(bundle.params, {}, {}, tx)
    state, found = jax.jit(make_step(objective, tx, jax.random.key(0), micro_batches))(state, batch, {})
    return jax.tree.map(lambda old, new: old - new, bundle.params, state.params), found


@pytest.fixture(scope="module")
def model(text: str) -> bertjax.Bundle:
    config = small(text).shape.config(VOCABULARY, "ForPreTraining")
    return bertjax.Bundle(config, jax.tree.map(lambda x: 3 * x, init_params(config, 1)), tiny_tokenizer())


def close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_micro_batches_give_the_gradient_of_the_whole_batch(text: str, model, packed: bool):
    batch = next(pretraining_batches(rows_of(text), 8, packed=packed))
    whole, parts = gradient(model, batch), gradient(model, batch, micro_batches=4)
    close(parts[0], whole[0])
    np.testing.assert_allclose(parts[1]["loss"], whole[1]["loss"], rtol=1e-5)


@pytest.mark.slow
def test_padding_and_filler_take_no_part(text: str, model):
    batch = next(pretraining_batches(rows_of(text), 8))
    spoiled = {name: array.copy() for name, array in batch.items()}
    spoiled["input_ids"][batch["attention_mask"] == 0] = 7
    spoiled["masked_labels"][batch["masked_weights"] == 0] = 9
    spoiled["sentence_labels"][batch["sentence_weights"] == 0] = 1
    more = {name: np.concatenate([array, np.zeros_like(array)]) for name, array in spoiled.items()}
    close(gradient(model, more)[0], gradient(model, batch)[0])


def test_packed_rows_give_the_losses_of_the_same_rows_alone(text: str, model):
    rows = rows_of(text)
    batch = next(pretraining_batches(rows, 8, packed=True))
    assert (batch["weights"].sum(axis=1) > 1).any()
    numbers = batch["example_ids"][batch["example_ids"] >= 0]
    alone = lay_out(rows, numbers[:, None], 0, LONGEST, None)
    terms, key = learning(Config(), model, None, 1).objective.terms, jax.random.key(0)
    losses = jax.jit(lambda batch: terms(model.params, {}, {}, batch, Update(0, key), key)[0])
    packed, plain = losses(batch), losses(alone)
    assert packed.keys() == plain.keys() == {"words", "sentences"}
    close(packed, plain)


def test_logits_at_chosen_places_are_those_of_the_whole_row(text: str, model):
    batch = next(pretraining_batches(rows_of(text), 8))

    @jax.jit
    def logits(batch):
        output: Any = model.model.apply({"params": model.params}, *inputs_of(batch), **places_of(batch))
        return output.logits

    chosen, whole = logits(batch), logits({name: x for name, x in batch.items() if name != "masked_positions"})
    places = batch["masked_positions"][..., None]
    np.testing.assert_allclose(chosen, jnp.take_along_axis(whole, places, axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_held_out_numbers_are_what_a_plain_loop_counts(text: str, model):
    rows = rows_of(text)
    found = evaluate(model, rows, 8)
    losses, right, order, labels = [], [], [], []

    @jax.jit
    def read(ids, mask, types):
        output: Any = model.model.apply({"params": model.params}, ids, mask, types)
        return jax.nn.log_softmax(output.logits[0]), output.sentence_logits[0]

    for number in range(len(rows.corpus)):
        row = rows.row(number, 0)
        length = len(row.type_ids)
        padded = [np.pad(x, (0, LONGEST - length))[None] for x in (row.masked.ids, np.ones(length, int), row.type_ids)]
        every, sentence = jax.device_get(read(*padded))
        said = every[row.masked.positions]
        losses += [-line[label] for line, label in zip(said, row.masked.labels, strict=True)]
        right += (said.argmax(-1) == row.masked.labels).tolist()
        labels += row.masked.labels.tolist()
        if row.label is not None:
            order.append(int(sentence.argmax()) == row.label)
    shares = np.bincount(labels) / len(labels)
    entropy = -sum(share * np.log(share) for share in shares if share)
    expected = [np.mean(losses), entropy, np.mean(right), np.mean(order)]
    assert list(found) == ["masked_loss", "unigram_entropy", "masked_accuracy", "sentence_accuracy"]
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-4)


# --- the script ------------------------------------------------------------------------------------------------------


def flags(text: str, out: Path, *more: str) -> list[str]:
    shape = {"hidden_size": 16, "embedding_size": 8, "intermediate_size": 32, "num_attention_heads": 2}
    shape |= {"num_hidden_layers": 2, "max_position_embeddings": LONGEST}
    data = [f"--data.train={text}", f"--data.eval={text}", f"--data.max_length={LONGEST}", "--vocab_size=50"]
    recipe = ["--batch_size=16", "--save_every=3", "--optimiser.learning_rate=0.01"]
    return [*(f"--shape.{name}={size}" for name, size in shape.items()), *data, *recipe, f"--out={out}", *more]


@pytest.fixture(scope="module")
def straight(text: str, tmp_path_factory) -> Path:
    """Forty steps in one go, over several epochs."""
    out = tmp_path_factory.mktemp("straight") / "run"
    run("pretrain", *flags(text, out, "--steps=40"))
    return out


@pytest.mark.slow
def test_a_finished_run_leaves_a_bundle_numbers_and_its_pace(straight: Path):
    bundle = bertjax.load(straight / "bundle")
    assert (bundle.config.architecture, bundle.newly_initialized) == ("AlbertForPreTraining", ())
    assert bundle.tokenizer is not None
    assert bundle.tokenizer.vocab_size == bundle.config.vocab_size == 50
    record = json.loads((straight / "run.json").read_text())
    result = record["result"]
    assert result.keys() == {"masked_loss", "unigram_entropy", "masked_accuracy", "sentence_accuracy"}
    assert record["data"].keys() == {"train", "eval", "tokenizer"}
    assert record["peak_flops"] > 1e8
    line = [line for line in metrics(straight) if "loss" in line][-1]
    assert {"loss/words", "loss/sentences", "tokens_per_second", "share_of_peak"} <= line.keys()
    assert line["tokens_per_second"] > 10
    assert 0 < line["share_of_peak"] < 1


@pytest.mark.slow
def test_the_result_is_a_stock_albert_that_can_be_fine_tuned(straight: Path, tmp_path: Path):
    import transformers

    theirs = transformers.AutoModelForPreTraining.from_pretrained(straight / "bundle")
    assert type(theirs).__name__ == "AlbertForPreTraining"
    bundle = bertjax.load(straight / "bundle", architecture="AlbertForSequenceClassification", labels=("a", "b"))
    assert bundle.newly_initialized == ("classifier/bias", "classifier/kernel")


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_bits(text: str, straight: Path, tmp_path: Path):
    command = flags(text, tmp_path / "cut", "--steps=40")
    with subprocess.Popen(script("pretrain", *command), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "cut" / "checkpoints" / "3").exists() and process.poll() is None:
            time.sleep(0.02)
        process.kill()
    assert not (tmp_path / "cut" / "bundle").exists()
    run("pretrain", *command)
    (again,) = [line["step"] for line in metrics(tmp_path / "cut") if line.get("event") == "restart"]
    assert 3 <= again < 40
    assert weights(tmp_path / "cut") == weights(straight)
    results = [json.loads((out / "run.json").read_text())["result"] for out in (tmp_path / "cut", straight)]
    assert results[0] == results[1]


@pytest.mark.slow
def test_it_continues_from_any_bundle_packed_with_lamb_in_bfloat16(text: str, straight: Path, tmp_path: Path):
    out = tmp_path / "more"
    lamb = Optimiser(rule="lamb", learning_rate=1e-3)
    recipe = {"steps": 3, "batch_size": 16, "micro_batches": 2, "dtype": "bfloat16", "packed": True, "optimiser": lamb}
    given = {"model": str(straight / "bundle"), "vocab_size": None, "sentences": "order-official", "out": str(out)}
    main(small(text, **recipe, **given))
    lines = [line for line in metrics(out) if "loss" in line]
    assert lines[-1]["loss/words"] < np.log(50)
    before, after = ((folder / "bundle" / "vocab.txt").read_bytes() for folder in (straight, out))
    assert after == before
    assert weights(out) != weights(straight)


@pytest.mark.slow
def test_a_bert_of_words_alone_is_pre_trained_too(text: str, tmp_path: Path):
    model = write_model(tmp_path / "model")
    main(small(text, model=str(model), vocab_size=None, sentences="none", steps=2, out=str(tmp_path / "out")))
    assert bertjax.load(tmp_path / "out" / "bundle").config.architecture == "BertForMaskedLM"
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "sentence_accuracy" not in record["result"]


@pytest.mark.slow
def test_the_seed_of_the_parameters_is_the_runs(text: str):
    first, same, other = (open_bundle(small(text, seed=seed)).params for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, same)
    differing = jax.tree.map(lambda a, b: bool((a != b).any()), first, other)
    assert differing["embeddings"]["word"]["embedding"]


MISTAKES = {
    "no such text": (["--data.train=nowhere.txt"], "nowhere.txt: no such file"),
    "more pieces than there are": (["--vocab_size=9000"], "gives only"),
    "another vocabulary": (["--model={model}"], "has 25 tokens of its own"),
    "too long": (["--data.max_length=99"], "the model has 24 positions"),
    "rate": (["--masking.rate=2"], "expected the share"),
    "one document": (["--data.train={one}", "--vocab_size=26", "--sentences=next"], "the text is one document"),
    "held out, one document": (["--data.eval={one}", "--sentences=next"], "the text is one document"),
    "held out, nothing to guess": (["--data.eval={short}", "--sentences=none"], "no token is masked"),
    "single sentences": (["--data.train={apart}", "--vocab_size=26"], "no chunk of the text has two sentences"),
    "another shape": (
        ["--model={model}", "--vocab_size=25", "--shape.embedding_size=16", "--shape.num_hidden_layers=7"],
        "--shape.num_hidden_layers=7: {model} has 2",
    ),
    "integers": (["--model={integers}", "--vocab_size=25", "--shape.embedding_size=16"], "holds integers"),
    "seed": (["--seed=99999999999999999999"], "expected a number of 64 bits"),
    "unknown sentences": (["--sentences=ordre"], "did you mean order?"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_in_a_few_clear_lines(case: str, text: str, tmp_path: Path):
    more, expected = MISTAKES[case]
    sentence = "the cat sat on the mat\n"
    texts = {"one": sentence * 40, "short": "the cat\n", "apart": f"{sentence}\n" * 40}
    for name, content in texts.items():
        (tmp_path / f"{name}.txt").write_text(content)
    names = {name: str(tmp_path / f"{name}.txt") for name in texts}
    names["model"] = str(write_model(tmp_path / "model"))
    bundle = bertjax.load(names["model"])
    config, params = quantise_weights(bundle.config, bundle.params)
    bertjax.save(replace(bundle, config=config, params=params), tmp_path / "integers")
    names["integers"] = str(tmp_path / "integers")
    with pytest.raises(bertjax.UserError) as caught:
        main(parse(Config, flags(text, tmp_path / "out", "--steps=2", *(flag.format(**names) for flag in more))))
    assert expected.format(**names) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5


def test_a_head_that_cannot_be_asked_about_sentences_says_so(text: str, tmp_path: Path):
    write_model(tmp_path / "model", model_type="distilbert", architecture="DistilBertModel", type_vocab_size=0)
    with pytest.raises(bertjax.UserError, match=r"--sentences=order: .* no token types"):
        open_bundle(small(text, model=str(tmp_path / "model"), vocab_size=None))
    bundle = open_bundle(small(text, model=str(tmp_path / "model"), vocab_size=None, sentences="none"))
    assert bundle.config.architecture == "DistilBertForMaskedLM"
