"""Pairing of layers, the student's start, and stored teacher outputs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle, init_params
from bertjax.distill.pairing import pair_layers
from bertjax.distill.teacher import identity, stored_outputs, teacher_bytes
from bertjax.distill.terms import HiddenStates, SoftTargets
from bertjax.errors import UserError
from bertjax.model import BertConfig
from bertjax.quantize import quantise_weights
from bertjax.quantized.formats import INT8
from bertjax.student import Student
from bertjax.text.batches import eval_batches, inputs_of
from tests.text.tiny import made_up, random_lengths, tiny_tokenizer
from tests.tolerances import SAME_MATHS

CONFIG = BertConfig(
    architecture="BertForSequenceClassification",
    vocab_size=512,
    hidden_size=16,
    num_hidden_layers=6,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
)
TEACHER = Bundle(CONFIG, init_params(CONFIG, 0))
EVERYTHING: Any = frozenset(
    {("hidden_states", 0), ("hidden_states", 4), ("first", 4), ("first", 6), ("queries", 5), ("keys", 0), ("values", 3)}
)


def run(bundle: Bundle, *inputs: Any) -> Any:
    return jax.jit(bundle.model.apply)({"params": bundle.params}, *inputs)


@pytest.mark.parametrize(
    ("rule", "student", "teacher", "expected"),
    [
        ("uniform", 3, 6, (1, 3, 5)),
        ("uniform", 4, 12, (2, 5, 8, 11)),
        ("uniform", 4, 6, (1, 2, 4, 5)),
        ("last", 2, 6, (4, 5)),
        ("first", 2, 6, (0, 1)),
        ((0, 2, 4, 7, 9, 11), 6, 12, (0, 2, 4, 7, 9, 11)),
    ],
)
def test_pairings_are_the_published_ones(rule, student: int, teacher: int, expected: tuple[int, ...]):
    assert pair_layers(rule, student, teacher) == expected


@pytest.mark.parametrize(("rule", "message"), [("middle", "uniform"), ((1,), "1 layers"), ((1, 6), "layer 6")])
def test_impossible_pairings_are_refused(rule, message: str):
    with pytest.raises(UserError, match=message):
        pair_layers(rule, 2, 6)


@pytest.mark.slow
def test_a_student_of_full_size_is_the_teacher():
    same = Student(num_hidden_layers=6).initialise(TEACHER, seed=1)
    jax.tree.map(np.testing.assert_array_equal, same.params, TEACHER.params)


def test_a_student_begins_with_the_paired_layers():
    student = Student(num_hidden_layers=2, pairing="last").initialise(TEACHER, seed=1)
    stack = TEACHER.params["encoder"]
    jax.tree.map(np.testing.assert_array_equal, student.params["encoder"]["layer_0"], stack["layer_4"])
    jax.tree.map(np.testing.assert_array_equal, student.params["embeddings"], TEACHER.params["embeddings"])
    jax.tree.map(np.testing.assert_array_equal, student.params["classifier"], TEACHER.params["classifier"])


@pytest.mark.slow
def test_dropping_silent_neurons_changes_nothing():
    params = jax.tree.map(np.copy, TEACHER.params)
    silent = np.arange(0, 32, 2)
    for layer in params["encoder"].values():
        layer["ffn"]["output"]["kernel"][silent] = 0
    teacher = Bundle(CONFIG, params)
    student = Student(num_hidden_layers=6, intermediate_size=16).initialise(teacher, seed=1)
    ids = jnp.arange(12)[None] + 1
    np.testing.assert_allclose(run(student, ids).logits, run(teacher, ids).logits, **SAME_MATHS)


@pytest.mark.slow
def test_a_narrower_student_begins_at_random_and_a_wider_ffn_is_refused():
    narrow = Student(num_hidden_layers=2, hidden_size=8, num_attention_heads=2).initialise(TEACHER, seed=1)
    assert narrow.params["encoder"]["layer_0"]["attention"]["query"]["kernel"].shape == (8, 8)
    with pytest.raises(UserError, match="neurons"):
        Student(num_hidden_layers=2, intermediate_size=64).initialise(TEACHER, seed=1)


@pytest.mark.slow
def test_stored_outputs_are_what_a_live_teacher_says(tmp_path: Path):
    encoded = made_up(random_lengths(21, 16))
    object.__setattr__(encoded, "ids", encoded.ids % 512)
    stored = stored_outputs(tmp_path, TEACHER, encoded, EVERYTHING, batch_size=4)
    for batch in eval_batches(encoded, 4, (8, 16)):
        said: Any = stored.output(stored.add_to(batch))
        live = run(TEACHER, *inputs_of(batch))
        real, rows = batch["attention_mask"] > 0, batch["weights"] > 0
        np.testing.assert_allclose(said.logits[rows], live.logits[rows], rtol=1e-5, atol=1e-6)
        for name, place in EVERYTHING - {("first", 4), ("first", 6)}:
            found, expected = getattr(said, name)[place], getattr(live, name)[place]
            # Half precision keeps eleven bits.
            np.testing.assert_allclose(found[real], expected[real], atol=2e-3)
            assert not np.asarray(found)[~real].any()
        assert said.hidden_states[6].shape[1] == 1
        np.testing.assert_allclose(said.hidden_states[6][rows, 0], live.hidden_states[6][rows, 0], atol=2e-3)


def test_stored_outputs_are_found_again_but_never_those_of_other_weights_or_text(tmp_path: Path):
    encoded, other_text = made_up(random_lengths(9, 16)), made_up(random_lengths(9, 16, seed=1))
    other = Bundle(CONFIG, init_params(CONFIG, 1))
    calls = []

    def count(done: int, total: int) -> None:
        calls.append(done == total)

    for teacher, text in ((TEACHER, encoded), (TEACHER, encoded), (other, encoded), (TEACHER, other_text)):
        stored_outputs(tmp_path, teacher, text, frozenset({("hidden_states", 1)}), batch_size=16, progress=count)
    assert sum(calls) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_stored_outputs_of_integers_are_named_by_the_integers():
    """And not by where they lie in memory, where others lie later."""
    encoded = made_up(random_lengths(9, 16))
    config, params = quantise_weights(CONFIG, TEACHER.params, INT8)
    copied = jax.tree.map(np.copy, params)
    assert identity(Bundle(config, copied), encoded, ()) == identity(Bundle(config, params), encoded, ())
    named = set()
    for part in ("values", "scale"):
        other = jax.tree.map(np.copy, params)
        getattr(other["encoder"]["layer_0"]["attention"]["query"]["kernel"], part)[0, 0] += 1
        named.add(identity(Bundle(config, other), encoded, ()))
    assert len(named | {identity(Bundle(config, params), encoded, ())}) == 3


def test_the_size_on_disk_is_what_was_announced(tmp_path: Path):
    encoded = made_up(random_lengths(40, 16))
    stored_outputs(tmp_path, TEACHER, encoded, EVERYTHING)
    written = sum(file.stat().st_size for file in tmp_path.rglob("*.npy"))
    announced = teacher_bytes(TEACHER, encoded, EVERYTHING)
    assert announced <= written <= announced + 200 * (1 + len(EVERYTHING))


def test_hidden_states_learn_through_a_projection_only_where_widths_differ():
    term = HiddenStates()
    narrow = Student(num_hidden_layers=2, hidden_size=8, num_attention_heads=2).config(CONFIG)
    assert term.parameters(jax.random.key(0), CONFIG, CONFIG) == {}
    assert term.parameters(jax.random.key(0), narrow, CONFIG)["kernel"].shape == (8, 16)
    assert term.needs(narrow, CONFIG) == {("hidden_states", i) for i in (0, 3, 6)}
    assert SoftTargets().needs(narrow, CONFIG) == frozenset()


def test_hidden_states_are_a_mean_over_pairs_tokens_and_width():
    rng = np.random.default_rng(0)
    states = [rng.normal(size=(2, 3, 16)).astype(np.float32) for _ in range(6)]
    mask = np.array([[1, 1, 0], [1, 0, 0]], np.int32)
    student = Student(num_hidden_layers=2).config(CONFIG)
    loss = HiddenStates().build(student, CONFIG)
    said = SimpleNamespace(hidden_states={0: jnp.array(states[3]), 3: jnp.array(states[4]), 6: jnp.array(states[5])})
    guess = SimpleNamespace(hidden_states=tuple(map(jnp.array, states[:3])))
    total, weight = loss({}, guess, said, {"attention_mask": jnp.array(mask), "weights": jnp.ones(2)})
    errors = [((states[i] - states[i + 3]) ** 2).mean(-1)[mask > 0] for i in range(3)]
    np.testing.assert_allclose(total / weight, np.mean(errors), rtol=1e-5)


@pytest.mark.slow
def test_a_student_of_a_shared_teacher_begins_with_the_layers_that_its_steps_are_paired_with():
    shared = CONFIG.replace(model_type="albert", architecture="AlbertForSequenceClassification", num_hidden_groups=3)
    teacher = Bundle(shared, init_params(shared, 0))
    student = Student(num_hidden_layers=2, pairing="last").initialise(teacher, 0)
    assert student.config.num_hidden_groups == 2
    for layer in ("layer_0", "layer_1"):  # both are paired with steps that use the teacher's last group
        np.testing.assert_array_equal(
            student.params["encoder"][layer]["attention"]["query"]["kernel"],
            teacher.params["encoder"]["layer_2"]["attention"]["query"]["kernel"],
        )
    one = Student(num_hidden_layers=6).initialise(teacher, 0)
    ids = np.arange(1, 9, dtype=np.int32)[None]
    np.testing.assert_allclose(run(one, ids).logits, run(teacher, ids).logits, **SAME_MATHS)


@pytest.mark.parametrize("merge", ["mean", "first", "fit"])
def test_a_student_may_share_its_layers_and_have_a_narrow_word_table(merge: Any):
    sample = made_up(random_lengths(40, 9))
    student = Student(num_hidden_layers=6, groups=2, norms="separate", merge=merge, embedding_size=5)
    made = student.initialise(TEACHER, 0, sample)
    assert [step.attention for step in made.config.depth_steps()] == [0, 0, 0, 1, 1, 1]
    assert [step.ffn_norm for step in made.config.depth_steps()] == list(range(6))
    assert made.params["embeddings"]["word"]["embedding"].shape == (512, 5)
    assert np.isfinite(run(made, np.arange(1, 9, dtype=np.int32)[None]).logits).all()


def test_a_fit_without_text_is_refused():
    with pytest.raises(UserError, match="merge=fit needs sample text"):
        Student(num_hidden_layers=6, groups=2, merge="fit").initialise(TEACHER, 0)


def random_model(architecture: str, seed: int, **changes: Any) -> Bundle:
    config = CONFIG.replace(architecture=architecture, **changes)
    return Bundle(config, init_params(config, seed), tiny_tokenizer())


@pytest.mark.slow
def test_as_a_distilbert_a_student_computes_the_same_from_texts_of_one_type(tmp_path: Path):
    """All layers are taken over, so nothing is lost but the types; and the folder is a stock DistilBERT."""
    teacher = random_model("BertForMaskedLM", 0)
    student = Student(num_hidden_layers=6, family="distilbert").initialise(teacher, 0)
    assert (student.config.model_type, student.config.architecture) == ("distilbert", "DistilBertForMaskedLM")
    ids = np.arange(1, 13, dtype=np.int32).reshape(2, 6)
    for ours, theirs in zip(run(student, ids).hidden_states, run(teacher, ids).hidden_states, strict=True):
        np.testing.assert_allclose(ours, theirs, **SAME_MATHS)
    bertjax.save(student, tmp_path / "student")
    assert json.loads((tmp_path / "student" / "config.json").read_text())["model_type"] == "distilbert"
    bare = Student(num_hidden_layers=1, family="distilbert").initialise(random_model("BertModel", 0), 0)
    assert bare.params.keys() == {"embeddings", "encoder"}
    with pytest.raises(UserError, match="family=distilbert needs a teacher of class BertModel or BertForMaskedLM"):
        Student(family="distilbert").config(CONFIG)


@pytest.mark.slow
def test_a_student_begins_with_another_model_than_its_teacher(tmp_path: Path):
    bertjax.save(random_model("BertForMaskedLM", 7, num_hidden_layers=3, intermediate_size=24), tmp_path / "other")
    teacher = random_model("BertForSequenceClassification", 0, labels=("no", "yes"))
    student = Student(num_hidden_layers=2, init_from=str(tmp_path / "other"), pairing=(0, 2)).initialise(teacher, 0)
    other = bertjax.load(tmp_path / "other")
    assert student.config == teacher.config.replace(num_hidden_layers=2, intermediate_size=24)
    for ours, theirs in ((0, 0), (1, 2)):
        mine, source = (b.params["encoder"][f"layer_{i}"] for b, i in ((student, ours), (other, theirs)))
        np.testing.assert_array_equal(mine["ffn"]["output"]["kernel"], source["ffn"]["output"]["kernel"])
    with pytest.raises(UserError, match="no model folder at nowhere"):
        Student(init_from="nowhere").initialise(teacher, 0)
    with pytest.raises(UserError, match="tokenizer is not the teacher's"):
        Student(init_from=str(tmp_path / "other")).initialise(TEACHER, 0)
