"""Exits as part of a model: put in, taken out, written, read, trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax
from bertjax.adaptive import add_exits, remove_exits
from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.jobs.exits import ALL_BUT_EXITS, losses_of
from bertjax.learn import Frozen, Update
from bertjax.learn.assemble import Learning, assemble
from bertjax.model import BertConfig, BertModel, EarlyExitBert, ExitRule, Exits, build
from bertjax.params import count, flatten
from bertjax.recipes.exits import EarlyExit
from tests.model.tiny import TINY, apply, tiny, tiny_batch
from tests.tolerances import SAME_MATHS

EVERY = Exits((0, 1))


def test_exits_put_in_and_taken_out_leave_the_model_as_it_was():
    model, params = tiny(num_hidden_layers=3)
    config, with_exits = add_exits(model.config, params, EVERY, seed=0)
    np.testing.assert_array_equal(
        apply(build(config), with_exits, tiny_batch()).logits, apply(model, params, tiny_batch()).logits
    )
    back, without = remove_exits(config, with_exits)
    assert back == model.config
    assert flatten(without).keys() == flatten(params).keys()
    assert all(flatten(without)[path] is leaf for path, leaf in flatten(params).items())


def test_an_exit_is_a_pooler_and_a_classifier_on_the_first_row_of_its_layer():
    model, params = tiny(num_hidden_layers=3, exits=Exits((0, 2)))
    out = apply(model, params, tiny_batch())
    for number, logits in zip((0, 2), out.exit_logits, strict=True):
        head = params["exits"][f"exit_{number}"]
        row = np.asarray(out.hidden_states[number + 1])[:, 0]
        pooled = np.tanh(row @ head["pooler"]["kernel"] + head["pooler"]["bias"])
        expected = pooled @ head["classifier"]["kernel"] + head["classifier"]["bias"]
        np.testing.assert_allclose(logits, expected, **SAME_MATHS)


@pytest.mark.parametrize("number", [-1, 0])
def test_an_exit_may_read_the_mean_of_the_real_tokens(number):
    model, params = tiny(num_hidden_layers=2, exits=Exits((number,), reads="mean"))
    out, real = apply(model, params, tiny_batch()), tiny_batch()["attention_mask"]
    head, hidden = params["exits"][f"exit_{number}"], np.asarray(out.hidden_states[number + 1])
    mean = (hidden * real[..., None]).sum(1) / real.sum(1)[:, None]
    pooled = np.tanh(mean @ head["pooler"]["kernel"] + head["pooler"]["bias"])
    expected = pooled @ head["classifier"]["kernel"] + head["classifier"]["bias"]
    np.testing.assert_allclose(out.exit_logits[0], expected, **SAME_MATHS)


def test_what_an_exit_costs_depends_on_its_head():
    def more(head):
        model, params = tiny(num_hidden_layers=3)
        return count(add_exits(model.config, params, Exits((0, 1), head), 0)[1]) - count(params)

    d, c = TINY.hidden_size, len(TINY.labels)
    assert more("own_pooler") == 2 * (d * d + d + d * c + c)
    assert more("shared_pooler") == 2 * (d * c + c)
    assert more("shared") == 0


def test_exits_begin_as_copies_of_the_models_own_head():
    model, params = tiny(num_hidden_layers=3)
    _, found = add_exits(model.config, params, EVERY, seed=0)
    for part in ("pooler", "classifier"):
        np.testing.assert_array_equal(found["exits"]["exit_1"][part]["kernel"], params[part]["kernel"])


@pytest.mark.parametrize("exit_rule", [None, ExitRule("entropy", 0.25)])
def test_a_model_with_exits_is_read_as_it_was_written_and_not_by_stock_code(tmp_path, exit_rule):
    model, params = tiny(num_hidden_layers=3, exits=Exits((0, 1), "shared_pooler", exit_rule))
    bertjax.save(Bundle(model.config, params), tmp_path / "m")
    again = bertjax.load(tmp_path / "m")
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    assert '"model_type": "bertjax"' in (tmp_path / "m" / "config.json").read_text()
    bare = bertjax.load(tmp_path / "m", architecture="BertModel")
    assert bare.config.exits is None
    other = bertjax.load(tmp_path / "m", labels=("x", "y"))
    assert any(path.startswith("exits/") for path in other.newly_initialized)


@pytest.mark.slow
def test_the_named_class_insists_on_exits():
    inputs = jnp.ones((1, 4), jnp.int32)
    with pytest.raises(UserError, match="needs exits"):
        EarlyExitBert(TINY).init(jax.random.key(0), inputs)
    model = EarlyExitBert(TINY.replace(exits=Exits((0,))))
    out: Any = model.apply(model.init(jax.random.key(0), inputs), inputs)
    assert len(out.exit_logits) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Exits(()), "at least one"),
        (lambda: Exits((1, 0)), "ascending order"),
        (lambda: Exits((0,), "shared", reads="mean"), "cannot read the mean"),
        (lambda: Exits((-2, 0), reads="mean"), "expected a whole number from -1"),
        (lambda: Exits((-1, 0)), "needs reads='mean'"),
        (lambda: TINY.replace(exits=Exits((5,))), "the last depth step is 1"),
        (lambda: BertConfig(exits=Exits((0,))), "exits need a model for sequence classification"),
        (lambda: add_exits(*tiny_pair(), Exits((1,)), 0), "expected layers from 0 to 0"),
        (lambda: add_exits(TINY.replace(exits=Exits((0,))), {}, Exits((0,)), 0), "remove them first"),
        (lambda: EarlyExit(head="shared"), "use --method=joint"),
        (lambda: EarlyExit(method="joint", preset="official"), "two_stage differs"),
        (lambda: EarlyExit(method="joint", after=(-1, 0), reads="mean"), "it would learn nothing"),
    ],
)
def test_exits_that_make_no_sense_are_said(wrong, said):
    with pytest.raises(UserError, match=said):
        wrong()


def tiny_pair():
    model, params = tiny()
    return model.config, params


# --- training ----------------------------------------------------------------------------------------------------


def labelled():
    batch = tiny_batch() | {"labels": np.array([0, 2, 1]), "weights": np.ones(3, np.float32)}
    return jax.tree.map(jnp.asarray, batch)


def learning(stage: EarlyExit, model: BertModel, params: Any) -> Learning:
    return assemble(
        Bundle(model.config, params),
        losses_of(stage, model.config),
        steps=10,
        seed=0,
        transforms=(Frozen(ALL_BUT_EXITS),) if stage.frozen else (),
        dropout=not stage.frozen or stage.preset == "official",
    )


def terms_of(learning: Learning, trained: Any, batch: Any, step: int, key: int = 0) -> Any:
    update = Update(step, jax.random.key(1))
    given = {**batch, **learning.constants}
    return learning.objective.terms(trained, {}, {}, given, update, jax.random.key(key))[0]


def terms_and_gradient(stage: EarlyExit, step: int):
    model, params = tiny(num_hidden_layers=3, exits=EVERY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    batch, learnt = labelled(), learning(stage, model, params)

    def loss(trained):
        terms = terms_of(learnt, trained, batch, step)
        return sum(term.factor * term.total / term.weight for term in terms.values()), terms

    gradient, terms = jax.jit(jax.grad(loss, has_aux=True))(learnt.params)
    out = apply(model, params, tiny_batch())
    logits = [np.asarray(one, np.float64) for one in (*out.exit_logits, out.logits)]
    return terms, gradient, logits, np.asarray(batch["labels"])


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]))


def total(terms) -> float:
    return float(sum(term.factor * term.total / term.weight for term in terms.values()))


def test_in_two_stages_the_exits_alone_learn_each_with_the_same_weight():
    terms, gradient, logits, labels = terms_and_gradient(EarlyExit(method="two_stage"), 0)
    assert list(terms) == ["exit_0", "exit_1"]
    assert total(terms) == pytest.approx(sum(cross_entropy(one, labels) for one in logits[:2]), rel=1e-5)
    assert list(gradient) == ["exits"]


def test_jointly_a_later_exit_counts_more():
    terms, gradient, logits, labels = terms_and_gradient(EarlyExit(method="joint"), 0)
    expected = sum((i + 1) * cross_entropy(one, labels) for i, one in enumerate(logits)) / 6
    assert total(terms) == pytest.approx(expected, rel=1e-5)
    assert np.abs(gradient["encoder"]["layer_0"]["ffn"]["output"]["kernel"]).max() > 0


@pytest.mark.slow
def test_alternating_trains_the_last_layer_in_even_steps_and_every_head_in_odd_ones():
    even, quiet, logits, labels = terms_and_gradient(EarlyExit(method="alternating"), 4)
    odd, loud, _, _ = terms_and_gradient(EarlyExit(method="alternating"), 5)
    assert total(even) == pytest.approx(cross_entropy(logits[2], labels), rel=1e-5)
    assert total(odd) == pytest.approx(sum(cross_entropy(one, labels) for one in logits), rel=1e-5)
    assert all(not np.asarray(leaf).any() for leaf in flatten(quiet["exits"]).values())
    assert all(np.asarray(leaf).any() for leaf in flatten(loud["exits"]).values())


@pytest.mark.slow
def test_without_labels_an_exit_learns_what_the_last_layer_says():
    model, params = tiny(num_hidden_layers=3, exits=EVERY)
    learnt = learning(EarlyExit(method="self_distil"), model, params)
    batch = {name: array for name, array in labelled().items() if name != "labels"}
    terms = terms_of(learnt, learnt.params, batch, 0)
    out = apply(model, params, tiny_batch())
    teacher = jax.nn.log_softmax(out.logits)
    for name, logits in zip(("exit_0", "exit_1"), out.exit_logits, strict=True):
        divergence = jnp.exp(teacher) * (teacher - jax.nn.log_softmax(logits))
        assert float(terms[name].total) == pytest.approx(float(divergence.sum()), rel=1e-4)


@pytest.mark.slow
def test_only_the_official_preset_drops_in_what_is_frozen():
    def loss(preset, key):
        model, params = tiny(num_hidden_layers=3, exits=EVERY, hidden_dropout_prob=0.5)
        learnt = learning(EarlyExit(preset=preset), model, params)
        return total(terms_of(learnt, learnt.params, labelled(), 0, key))

    assert loss("paper", 0) == loss("paper", 1)
    assert loss("official", 0) != loss("official", 1)
