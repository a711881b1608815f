"""Several examples a row: the same losses and gradients as one a row, in less time; refused where a row is one text."""

import random
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax
from bertjax.bundle import init_params
from bertjax.distill.terms import HardLabels, HiddenStates, SoftTargets
from bertjax.errors import UserError
from bertjax.learn.losses import TASK_LOSSES
from bertjax.model import BertConfig, Exits, build, mobile_config, universal_config
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student
from bertjax.text.batches import batches, inputs_of, places_of
from bertjax.text.encode import Encoded, encode_examples
from bertjax.text.examples import Examples, chosen_by_text
from bertjax.text.packing import packed_batches
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Kind, Task
from tests.text.tiny import made_up, random_lengths, tiny_tokenizer
from tests.train.test_kinds import PAIRS, classification_of_pairs, qa, tokens
from tests.train.tiny import metrics, write_model, write_table
from train import distill, finetune

LENGTHS = random_lengths(24, 20)
ROW = 32
KINDS = {"classification": 5, "regression": 1, "multi_label": 3, "tokens": 7}
"""Kinds of task, and the labels in `made_up`."""
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": {"model_type": "bert"},
    "DistilBert": {"model_type": "distilbert", "type_vocab_size": 0},
    "Albert": {"model_type": "albert", "embedding_size": 8, "num_hidden_layers": 2, "num_hidden_groups": 1},
}
SAME = {"rtol": 1e-5, "atol": 1e-5}


def config_for(family: str, kind: str) -> BertConfig:
    labels = tuple(map(str, range(KINDS[kind])))
    problem: Any = {"regression": "regression", "multi_label": "multi_label_classification"}.get(kind)
    head = "ForTokenClassification" if kind == "tokens" else "ForSequenceClassification"
    shared = {"architecture": family + head, "labels": labels, "problem_type": problem, "initializer_range": 0.2}
    return BertConfig(vocab_size=sum(LENGTHS) + 1, **{**SIZES, **shared, **FAMILIES[family]})


def whole(run: Any) -> dict[str, np.ndarray]:
    """All batches of an iterator that ends, as one."""
    parts = list(run)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def loss_and_gradient(model: Any, params: Any, kind: Kind, batch: dict[str, np.ndarray]) -> tuple[Any, Any]:
    @jax.jit
    def both(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            output = model.apply({"params": params}, *inputs_of(batch), **places_of(batch))
            total, weight = TASK_LOSSES[kind](output.logits, batch)
            return total / weight, (total, weight)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, sums), gradient = both(params, batch)
    return sums, gradient


def assert_packing_changes_nothing(model: Any, params: Any, encoded: Encoded, row: int) -> None:
    kind, longest = encoded.task.kind, int(encoded.lengths.max())
    alone = whole(batches(encoded, 8, seed=0, buckets=(longest,), epochs=1))
    packed = whole(packed_batches(encoded, 8, row_length=row, seed=0, epochs=1))
    assert packed["example_ids"].shape[1] > 1
    found, expected = (loss_and_gradient(model, params, kind, batch) for batch in (packed, alone))
    chex.assert_trees_all_close(found, expected, **SAME)
    assert found[0][0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_examples_have_the_loss_and_the_gradient_of_single_ones(kind, family):
    config = config_for(family, kind)
    # Seed 1: with seed 0 a DistilBERT has a number of 4e-8 before a ReLU, whose gradient is then a matter of rounding.
    assert_packing_changes_nothing(build(config), init_params(config, 1), made_up(LENGTHS, kind), ROW)


@pytest.mark.slow
def test_a_real_model_on_real_text_learns_alike_packed_and_not():
    task = infer_task("demo")
    bundle = bertjax.load("demo", architecture="BertForSequenceClassification", labels=task.labels)
    assert bundle.tokenizer is not None
    some = chosen_by_text(load_examples("demo", task, "train"), 24)
    encoded = encode_examples(some, task, bundle.tokenizer, 64)
    assert_packing_changes_nothing(bundle.model, bundle.params, encoded, 128)


def test_an_example_in_a_packed_row_weighs_what_it_weighs_alone():
    """Of token labels too, where the weight of an example is that of its pieces."""
    config, encoded = config_for("Bert", "tokens"), made_up(LENGTHS, "tokens")
    model, params, weights = build(config), init_params(config, 0), np.linspace(0, 2, len(LENGTHS), dtype=np.float32)

    def reweighted(run: Any) -> dict[str, np.ndarray]:
        batch = whole(run)
        return batch | {"weights": np.where(batch["example_ids"] >= 0, weights[batch["example_ids"]], np.float32(0))}

    alone = reweighted(batches(encoded, 8, seed=0, buckets=(max(LENGTHS),), epochs=1))
    packed = reweighted(packed_batches(encoded, 8, row_length=ROW, seed=0, epochs=1))
    chex.assert_trees_all_close(*(loss_and_gradient(model, params, "tokens", b) for b in (packed, alone)), **SAME)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [classification_of_pairs, tokens])
def test_a_packed_run_is_trained_and_distilled_to_the_end(kind, tmp_path: Path, capsys):
    """From stored outputs and from a live teacher the first step's loss is the same."""
    model, fields = write_model(tmp_path / "model"), kind(tmp_path / "data")
    data = Data(**{**fields, "train": str(fields["train"]), "eval": str(fields["train"]), "max_length": 24})
    common: dict[str, Any] = {"data": data, "steps": 2, "batch_size": 8, "packed": True}
    sure = Optimiser(learning_rate=0.1)  # else all it says is nearly one half, and nobody is far from that
    finetune.main(finetune.Config(model=str(model), out=str(tmp_path / "teacher"), optimiser=sure, **common))
    first = {}
    for store in (True, False):
        out = tmp_path / f"student-{store}"
        losses = (HardLabels(), SoftTargets())
        student = Student(num_hidden_layers=1)
        teacher = str(tmp_path / "teacher" / "bundle")
        distill.main(distill.Config(model=teacher, student=student, losses=losses, store=store, out=str(out), **common))
        first[store] = next(line["loss/1_SoftTargets"] for line in metrics(out) if "loss" in line)
        assert bertjax.load(out / "bundle").config.num_hidden_layers == 1
    assert first[True] == pytest.approx(first[False], rel=1e-4)
    assert first[True] > 1e-3
    assert f"packed: a step of 8 rows learns from {len(PAIRS)} examples" in capsys.readouterr().err


TAGS = ("O", "B-person", "I-person", "B-location")
LETTERS = ("the", "cats", "New", "York.", "played", "dog", "playing,cat", "a", "\u200b", "mat")
"""Words of one piece, of several, unknown, with punctuation inside, and one of no piece at all."""


def tagged(words_of_each: tuple[int, ...], every: int, seed: int) -> tuple[Encoded, list[list[str]]]:
    """Sentences with a tag for each word, but for every so many which are without an entity; the longest are cut."""
    rng = random.Random(seed)
    words: list[list[str]] = [rng.choices(LETTERS, k=count) for count in words_of_each]
    tags = [[rng.choice(TAGS) if row % every else "O" for _ in of_row] for row, of_row in enumerate(words)]
    examples = Examples([" ".join(of_row) for of_row in words], labels=tags, words=words)
    return encode_examples(examples, Task(kind="tokens", labels=TAGS), tiny_tokenizer(), 24), tags


def one_by_one(model: Any, params: Any, encoded: Encoded, tags: list[list[str]]) -> list[Any]:
    """Loss and gradient of each sentence by itself, without padding: minus the log-probability of the tag at each
    word's first piece, summed."""
    found = []
    for row, of_row in enumerate(tags):
        assert encoded.words is not None
        pieces = slice(encoded.offsets[row], encoded.offsets[row + 1])
        ids, types, owner = (x[pieces] for x in (encoded.ids, encoded.type_ids, encoded.words))
        firsts = np.flatnonzero(owner >= 0)
        gold = np.array([TAGS.index(of_row[word]) for word in owner[firsts]], np.int32)

        def loss(params: Any, inputs: Any, places: Any) -> Any:
            log = jax.nn.log_softmax(model.apply({"params": params}, *inputs).logits[0])
            return -jnp.sum(log[places])

        inputs = ids[None], np.ones_like(ids)[None], types[None]
        found.append(jax.jit(jax.value_and_grad(loss))(params, inputs, (firsts, gold)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lengths", "every", "row"),
    [
        ((1, 30, 5, 1, 8, 4), 3, 48),
        ((1, 1, 20, 1, 1), 1, 24),  # many in a row and one that fills it, no entity anywhere
    ],
)
def test_each_packed_sentence_has_the_loss_and_the_gradient_that_it_has_alone(lengths, every, row):
    """Tags of real sentences, one after the other: several of a row, of which all but one weigh nothing."""
    encoded, tags = tagged(lengths, every, seed=len(lengths))
    config = config_for("Bert", "tokens").replace(labels=TAGS, vocab_size=64)
    model, params = build(config), init_params(config, 1)
    expected = one_by_one(model, params, encoded, tags)

    @jax.jit
    def of_one(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            output: Any = model.apply({"params": params}, *inputs_of(batch), **places_of(batch))
            return TASK_LOSSES["tokens"](output.logits, batch)

        return jax.value_and_grad(loss, has_aux=True)(params)

    seen = []
    for batch in packed_batches(encoded, 2, row_length=row, seed=3, epochs=1):
        for place in zip(*np.nonzero(batch["weights"]), strict=True):
            number = int(batch["example_ids"][place])
            weights = np.zeros_like(batch["weights"])
            weights[place] = 1
            (total, weight), gradient = of_one(params, {**batch, "weights": weights})
            words = encoded.words[encoded.offsets[number] : encoded.offsets[number + 1]]  # type: ignore[index]
            assert weight == (words >= 0).sum()
            chex.assert_trees_all_close((total, gradient), expected[number], **SAME)
            seen.append(number)
    assert sorted(seen) == list(range(len(lengths)))


def refusal(script: Any, tmp_path: Path, **fields: Any) -> str:
    given = {"packed": True, "steps": 1, "batch_size": 8, "out": str(tmp_path / "out"), **fields}
    with pytest.raises(UserError) as raised:
        script.main(script.Config(**given))
    return str(raised.value)


@pytest.mark.slow
def test_what_cannot_share_a_row_is_refused_before_training(tmp_path: Path):
    questions = str(qa(tmp_path / "questions")["train"])
    table = str(write_table(tmp_path / "train.tsv", 16))
    data = Data(train=table, eval=table, max_length=16)
    model = str(write_model(tmp_path / "model"))
    asked = Data(train=questions, eval=questions, max_length=16)
    assert "Question answering cannot be packed" in refusal(finetune, tmp_path, model=model, data=asked)
    long = Data(train=table, eval=table, max_length=128)
    short = str(write_model(tmp_path / "short", max_position_embeddings=8))
    assert "the longest example has 15 tokens, the model 8 positions" in refusal(
        finetune, tmp_path, model=short, data=long
    )
    finetune.main(finetune.Config(model=model, data=data, steps=1, batch_size=8, out=str(tmp_path / "teacher")))
    inside = refusal(distill, tmp_path, model=str(tmp_path / "teacher" / "bundle"), data=data)
    assert "--packed: HiddenStates would take the examples of a row for one" in inside
    assert type(distill.Config().losses[1]) is HiddenStates


def test_a_model_that_knows_one_text_a_row_says_so():
    classifier = {"architecture": "BertForSequenceClassification", **SIZES}
    halting = universal_config("paper", **SIZES)
    by_example = bertjax.model.Halting(scope="example", epsilon=0.01)
    reasons = {
        "halting with scope='example'": halting.replace(recurrence=bertjax.model.Recurrence(3, halting=by_example)),
        "exits with reads='mean'": BertConfig(**classifier, exits=Exits(after=(0,), reads="mean")),
        "trigram embeddings would mix neighbouring texts": mobile_config("tiny"),
    }
    for reason, config in reasons.items():
        assert reason in (config.unpackable or "")
    for config in (halting, BertConfig(**classifier, exits=Exits(after=(0,)))):
        assert config.unpackable is None
    config = reasons["halting with scope='example'"].replace(vocab_size=9)
    ids = np.ones((1, 4), np.int32)
    with pytest.raises(UserError, match="'example' averages over the whole row: do not pack for this model"):
        build(config).apply({"params": init_params(config, 0)}, ids, segment_ids=ids)
