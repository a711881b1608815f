"""Terms of a config: their presets against what papers and published code compute, and stored against live teachers."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from bertjax.bundle import Bundle, init_params
from bertjax.distill import losses
from bertjax.distill.teacher import stored_outputs
from bertjax.distill.terms import (
    AttentionMaps,
    AttentionScores,
    FeatureMaps,
    HardLabels,
    HiddenStates,
    LastHiddenState,
    MatchedStates,
    PatientStates,
    Relations,
    SoftTargets,
    TokenRanking,
)
from bertjax.errors import UserError
from bertjax.learn import Update
from bertjax.model import BertConfig, Retention
from bertjax.student import Student
from bertjax.text.batches import eval_batches, inputs_of
from tests.text.tiny import made_up, random_lengths

TEACHER_CONFIG = BertConfig(
    architecture="BertForSequenceClassification",
    vocab_size=512,
    hidden_size=24,
    num_hidden_layers=6,
    num_attention_heads=3,
    intermediate_size=32,
    max_position_embeddings=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    labels=("a", "b", "c"),
    initializer_range=0.3,
)
TEACHER = Bundle(TEACHER_CONFIG, init_params(TEACHER_CONFIG, 0))
SAME_WIDTH = Student(num_hidden_layers=3, init_from="random").initialise(TEACHER, 1)
NARROW = Student(num_hidden_layers=3, hidden_size=12, init_from="random").initialise(TEACHER, 1)
ENCODED = made_up(random_lengths(12, 9))
object.__setattr__(ENCODED, "ids", ENCODED.ids % 512)
[BATCH] = eval_batches(ENCODED, 12, (9,))


def said(bundle: Bundle) -> Any:
    return jax.jit(bundle.model.apply)({"params": bundle.params}, *inputs_of(BATCH))


def value(term: Any, student: Bundle, teacher_out: Any = None, extra: Any = None) -> float:
    loss = term.build(student.config, TEACHER_CONFIG)
    if extra is None:
        extra = term.parameters(jax.random.key(0), student.config, TEACHER_CONFIG)
    total, weight = jax.jit(loss)(extra, said(student), said(TEACHER) if teacher_out is None else teacher_out, BATCH)
    return float(total / weight)


def t(array: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(array))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_soft_targets_have_three_published_forms(temperature: float):
    ours, theirs = t(said(SAME_WIDTH).logits), t(said(TEACHER).logits)
    log_q, p = functional.log_softmax(ours / temperature, -1), functional.softmax(theirs / temperature, -1)
    published = {
        "hinton": functional.kl_div(log_q, p, reduction="batchmean") * temperature**2,
        "pkd": functional.kl_div(log_q, p, reduction="none").mean() * temperature**2,
        "tinybert": (-p * log_q).mean(),
    }
    for preset, expected in published.items():
        found = value(SoftTargets(temperature=temperature, preset=preset), SAME_WIDTH)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_class_weights_are_those_of_torch():
    weights = (1.0, 5.0, 0.25)
    labels = np.arange(12) % 3
    batch = {**BATCH, "labels": labels.astype(np.int32)}
    loss = HardLabels(class_weights=weights).build(TEACHER_CONFIG, TEACHER_CONFIG)
    total, weight = jax.jit(loss)({}, said(TEACHER), None, batch)
    expected = functional.cross_entropy(t(said(TEACHER).logits), torch.tensor(labels), torch.tensor(weights))
    np.testing.assert_allclose(total / weight, expected, rtol=1e-5)
    with pytest.raises(UserError, match="class_weights has 2 numbers; expected one for each class"):
        HardLabels(class_weights=(1.0, 2.0)).build(TEACHER_CONFIG, TEACHER_CONFIG)
    with pytest.raises(UserError, match=r"class_weights is 1.0, -1.0; expected numbers from 0"):
        HardLabels(class_weights=(1.0, -1.0))


@pytest.mark.slow
def test_on_its_own_logits_the_cross_entropy_is_the_entropy():
    p = functional.softmax(t(said(TEACHER).logits), -1)
    entropy = -(p * p.log()).sum(-1).mean() / 3
    np.testing.assert_allclose(value(SoftTargets(1.0, 1.0, "tinybert"), TEACHER), entropy, rtol=1e-5)
    assert abs(value(SoftTargets(1.0, 1.0), TEACHER)) < 1e-6


@pytest.mark.slow
def test_patience_of_the_paper_is_a_sum_over_layers_and_width():
    ours, theirs = said(SAME_WIDTH).hidden_states, said(TEACHER).hidden_states
    total, mean = 0.0, 0.0
    for layer, paired in ((1, 2), (2, 4)):  # PKD-skip for 3 of 6: the last pair is left out
        a, b = functional.normalize(t(ours[layer][:, 0])), functional.normalize(t(theirs[paired][:, 0]))
        total += (a - b).square().sum(-1).mean()
        mean += functional.mse_loss(a, b) / 2
    np.testing.assert_allclose(value(PatientStates(preset="paper"), SAME_WIDTH), total, rtol=1e-5)
    for preset in ("mean", "official"):
        np.testing.assert_allclose(value(PatientStates(preset=preset), SAME_WIDTH), mean, rtol=1e-5)


@pytest.mark.slow
def test_hidden_states_of_tinyberts_code_count_padding_and_always_have_a_projection():
    term = HiddenStates(preset="official")
    rng = np.random.default_rng(0)
    extra = {"kernel": jnp.array(rng.normal(size=(12, 24)), jnp.float32), "bias": jnp.arange(24.0)}
    fit_dense = torch.nn.Linear(12, 24)
    fit_dense.weight.data, fit_dense.bias.data = t(extra["kernel"]).T, t(extra["bias"])
    expected: Any = sum(
        functional.mse_loss(fit_dense(t(said(NARROW).hidden_states[s])), t(said(TEACHER).hidden_states[p]))
        for s, p in ((0, 0), (1, 2), (2, 4), (3, 6))
    )
    np.testing.assert_allclose(value(term, NARROW, extra=extra), float(expected.detach()), rtol=1e-5)
    assert set(term.parameters(jax.random.key(0), TEACHER_CONFIG, TEACHER_CONFIG)) == {"kernel", "bias"}
    assert term.needs(NARROW.config, TEACHER_CONFIG) is None


@pytest.mark.slow
def test_feature_maps_are_compared_whole_or_taken_apart():
    """Whole over real tokens; MobileBERT's code with torch's LayerNorm, over padding too, as a mean of layers."""
    ours, theirs, real = said(SAME_WIDTH).hidden_states, said(TEACHER).hidden_states, t(BATCH["attention_mask"]) > 0
    whole, apart = 0.0, 0.0
    for s, p in ((1, 2), (2, 4), (3, 6)):
        a, b = t(ours[s]), t(theirs[p])
        whole += float(functional.mse_loss(a[real], b[real]))
        shape = functional.mse_loss(
            functional.layer_norm(a, (24,), eps=1e-12), functional.layer_norm(b, (24,), eps=1e-12)
        )
        means = (a.mean(-1) - b.mean(-1)).square().mean()
        variances = (a.var(-1, unbiased=False) - b.var(-1, unbiased=False)).abs().mean()
        apart += float(100 * shape + 5000 * means + 5 * variances) / 3
    found = [value(FeatureMaps(preset=preset), SAME_WIDTH) for preset in ("mean", "official")]
    np.testing.assert_allclose(found, [whole / 3, apart], rtol=1e-5)


def test_the_means_and_variances_that_are_compared_are_not_those_of_layer_norm():
    """After a LayerNorm that learnt nothing they are 0 and 1; with these states every part counts."""
    student, teacher = (3 * np.random.default_rng(i).normal(size=(5, 8)).astype(np.float32) + i for i in (0, 1))
    a, b = torch.tensor(student), torch.tensor(teacher)
    parts = (
        functional.mse_loss(functional.layer_norm(a, (8,)), functional.layer_norm(b, (8,))),
        (a.mean(-1) - b.mean(-1)).square().mean(),
        (a.var(-1, unbiased=False) - b.var(-1, unbiased=False)).abs().mean(),
    )
    for i, part in enumerate(parts):
        factors = tuple(float(i == j) for j in range(3))
        total, weight = losses.feature_error(jnp.array(student), jnp.array(teacher), jnp.ones(5), factors)  # type: ignore[arg-type]
        np.testing.assert_allclose(total / weight, part, rtol=1e-4)


@pytest.mark.slow
def test_attention_maps_are_compared_per_head_and_query():
    """torch's KL over each text at its length; the published code's cross-entropy over queries of padding too."""
    ours, theirs = said(NARROW).attention_scores, said(TEACHER).attention_scores
    mask = BATCH["attention_mask"]
    lengths, divergence, crossed = mask.sum(1), 0.0, 0.0
    for s, p in ((0, 1), (1, 3), (2, 5)):
        a, b = t(ours[s]), t(theirs[p])
        for row, n in enumerate(lengths):
            q, target = a[row, :, :n, :n].log_softmax(-1), b[row, :, :n, :n].softmax(-1)
            divergence += float(functional.kl_div(q, target, reduction="sum")) / 3
        added = torch.tensor((1 - mask)[:, None, None, :] * -10000.0)
        crossed += float(-((b + added).softmax(-1) * (a + added).log_softmax(-1)).sum(-1).mean()) / 3
    mean = divergence / lengths.sum()
    found = [value(AttentionMaps(preset=preset), NARROW) for preset in ("mean", "official")]
    np.testing.assert_allclose(found, [mean / 3, crossed], rtol=1e-5)
    assert AttentionMaps(preset="official").needs(NARROW.config, TEACHER_CONFIG) is None


def softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def divergence(ours: np.ndarray, theirs: np.ndarray) -> float:
    """KL(theirs || ours) of maps [heads, l, l] before their softmax, divided by heads and length."""
    p, q = softmax(theirs), softmax(ours)
    return float((p * np.log(p / q)).sum() / (p.shape[0] * p.shape[1]))


def maps(vectors: np.ndarray, others: np.ndarray, heads: int) -> np.ndarray:
    """How the rows of [l, h, k] relate, cut anew into so many heads."""
    cut = [x.reshape(len(x), heads, -1).transpose(1, 0, 2) for x in (vectors, others)]
    return cut[0] @ cut[1].transpose(0, 2, 1) / np.sqrt(cut[0].shape[-1])


SKIPPED = ((0, 1), (1, 3), (2, 5))
"""(student layer, teacher layer), uniformly."""
OF_ONE_TEXT: dict[str, tuple[Any, Any]] = {
    "TinyBERT, eq. 7": (
        AttentionScores(preset="paper"),
        lambda s, t, n: sum(
            np.square(maps(s.queries[i][:n], s.keys[i][:n], 3) - maps(t.queries[j][:n], t.keys[j][:n], 3)).mean()
            for i, j in SKIPPED
        ),
    ),
    "TinyBERT, eq. 8": (
        HiddenStates(preset="paper"),
        lambda s, t, n: sum(
            np.square(s.hidden_states[i][:n] - t.hidden_states[j][:n]).mean()
            for i, j in ((0, 0), *((i + 1, j + 1) for i, j in SKIPPED))
        ),
    ),
    "MobileBERT, eq. 1": (
        FeatureMaps(preset="paper"),
        lambda s, t, n: sum(
            np.square(s.hidden_states[i + 1][:n] - t.hidden_states[j + 1][:n]).mean() for i, j in SKIPPED
        ),
    ),
    "MobileBERT, eq. 2": (
        AttentionMaps(preset="paper"),
        lambda s, t, n: sum(
            divergence(*(maps(x.queries[k][:n], x.keys[k][:n], 3) for x, k in ((s, i), (t, j)))) for i, j in SKIPPED
        ),
    ),
    "MiniLM v1, eq. 5 and 7": (
        Relations(of=(("queries", "keys"), ("values", "values")), heads=None, preset="paper"),
        lambda s, t, n: sum(
            divergence(*(maps(getattr(x, one)[k][:n], getattr(x, two)[k][:n], 3) for x, k in ((s, 2), (t, 5))))
            for one, two in (("queries", "keys"), ("values", "values"))
        ),
    ),
    "MiniLM v2, eq. 3 to 5": (
        Relations(heads=6, preset="paper"),
        lambda s, t, n: sum(
            divergence(*(maps(getattr(x, one)[k][:n], getattr(x, one)[k][:n], 6) for x, k in ((s, 2), (t, 5))))
            for one in ("queries", "keys", "values")
        ),
    ),
    "PKD, eq. 7": (
        PatientStates(preset="paper"),
        lambda s, t, n: sum(
            np.square(
                s.hidden_states[i][0] / np.linalg.norm(s.hidden_states[i][0])
                - t.hidden_states[j][0] / np.linalg.norm(t.hidden_states[j][0])
            ).sum()
            for i, j in ((1, 2), (2, 4))
        ),
    ),
}
"""Term, and what its paper's formula says of one text of n tokens, in plain arrays."""
WEIGHTS = np.array([1, 1, 0.5, 1, 2, 1, 0, 1, 1, 1, 1, 1], np.float32)


@pytest.mark.parametrize("name", OF_ONE_TEXT)
def test_papers_take_the_mean_by_text(name: str):
    """A loop over texts, each at its length: padding says nothing, a long text weighs what a short one does."""
    term, of_one = OF_ONE_TEXT[name]
    batch = {**BATCH, "weights": WEIGHTS}
    outputs = said(SAME_WIDTH), said(TEACHER)
    total, weight = jax.jit(term.build(SAME_WIDTH.config, TEACHER_CONFIG))({}, *outputs, batch)
    fields = ("hidden_states", "queries", "keys", "values")
    expected = 0.0
    for row, n in enumerate(BATCH["attention_mask"].sum(1).tolist()):
        ours, theirs = (
            SimpleNamespace(**{f: [np.asarray(x[row], np.float64) for x in getattr(out, f)] for f in fields})
            for out in outputs
        )
        expected += float(WEIGHTS[row]) * of_one(ours, theirs, n)
    np.testing.assert_allclose([total, weight], [expected, WEIGHTS.sum()], rtol=1e-5)


def test_of_the_mean_over_tokens_a_long_text_is_the_larger_part_and_of_the_papers_it_is_not():
    """Two texts that are told apart by their length: the paper's mean is theirs, whatever the lengths."""
    loss = [FeatureMaps(preset=preset).build(SAME_WIDTH.config, TEACHER_CONFIG) for preset in ("mean", "paper")]
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]], np.int32)
    states = np.ones((2, 6, 24), np.float32) * np.array([1.0, 3.0], np.float32)[:, None, None]
    student = SimpleNamespace(hidden_states=[jnp.array(states)] * 4)
    teacher = SimpleNamespace(hidden_states=[jnp.zeros((2, 6, 24))] * 7)
    batch = {"attention_mask": jnp.array(mask), "weights": jnp.ones(2)}
    found = [float(np.divide(*one({}, student, teacher, batch))) for one in loss]
    np.testing.assert_allclose(found, [(6 * 1 + 2 * 9) / 8, 3 * (1 + 9) / 2], rtol=1e-6)


@pytest.mark.slow
def test_scores_of_the_model_are_what_the_term_compares():
    ours, theirs = said(NARROW).attention_scores, said(TEACHER).attention_scores
    real = BATCH["attention_mask"] > 0
    total = 0.0
    for s, p in ((0, 1), (1, 3), (2, 5)):
        squares = np.square(np.asarray(ours[s] - theirs[p])).mean(1)
        for row in range(12):
            total += squares[row][real[row]][:, real[row]].mean(-1).sum() / 3
    np.testing.assert_allclose(value(AttentionScores(), NARROW), total / real.sum(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("term", "student"),
    [
        (SoftTargets(), SAME_WIDTH),
        (HiddenStates(), NARROW),
        (LastHiddenState(), SAME_WIDTH),
        (MatchedStates(), SAME_WIDTH),
        (PatientStates(), SAME_WIDTH),
        (AttentionScores(), NARROW),
        (AttentionMaps(), NARROW),
        (FeatureMaps(), SAME_WIDTH),
        (Relations(heads=6), NARROW),
        (Relations(of=(("queries", "keys"), ("values", "values")), heads=None, teacher_layer=3), NARROW),
        (TokenRanking(layers=(0, 1)), NARROW),
    ],
)
def test_a_stored_teacher_teaches_what_a_live_one_does(tmp_path, term: Any, student: Bundle):
    needs = term.needs(student.config, TEACHER_CONFIG)
    stored = stored_outputs(tmp_path, TEACHER, ENCODED, needs)
    batch = stored.add_to(BATCH)
    np.testing.assert_allclose(value(term, student, stored.output(batch)), value(term, student), rtol=5e-3)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (LastHiddenState(), "student's hidden_size is 12, the teacher's 24"),
        (FeatureMaps(), "student's hidden_size is 12, the teacher's 24"),
        (PatientStates(), "student's hidden_size is 12, the teacher's 24"),
        (Relations(heads=8), r"a width of 12 \(attention heads x head size\) is not divisible by heads=8"),
        (Relations(heads=6, teacher_layer=6), "teacher_layer is 6; the teacher has 6 layers"),
        (TokenRanking(), r"layers are \(\), and the student has 3 layers.*The default, 1 to a third of the depth"),
        (TokenRanking(layers=(3,)), r"layers are \(3,\), and the student has 3 layers; give one or more from 0 to 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(term: Any, message: str):
    with pytest.raises(UserError, match=message):
        term.build(NARROW.config, TEACHER_CONFIG)


def test_other_numbers_of_heads_are_for_relations_alone():
    two = Student(num_hidden_layers=3, num_attention_heads=2, init_from="random").config(TEACHER_CONFIG)
    for term in (AttentionScores(), AttentionMaps(), Relations(heads=None)):
        with pytest.raises(UserError, match="student's num_attention_heads is 2, the teacher's 3"):
            term.build(two, TEACHER_CONFIG)
    Relations(heads=6).build(two, TEACHER_CONFIG)


def test_token_ranking_teaches_the_published_layers_with_a_weight_that_falls():
    ranked = TokenRanking(0.5, warmup=0.5)
    shapes = TEACHER_CONFIG.replace(num_hidden_layers=12), TEACHER_CONFIG.replace(num_hidden_layers=12)
    theirs = SimpleNamespace(**{name: {11: jnp.ones((1, 4, 1, 2))} for name in ("queries", "keys")})
    ours = SimpleNamespace(**{name: {i: jnp.ones((1, 4, 1, 2)) for i in (1, 2, 3)} for name in ("queries", "keys")})
    batch = {"attention_mask": jnp.ones((1, 4), jnp.int32), "weights": jnp.ones(1)}
    loss = ranked.build(*shapes)
    # Equal scores: each of the three layers has log2(2) for the ranks 1-2, 2-3 and twice for 1-3.
    np.testing.assert_allclose(loss({}, ours, theirs, batch)[0], 3 * (1 + 1 + 2) / 9, rtol=1e-6)
    weights = [float(ranked.weight_at(Update(step, None, 100))) for step in (0, 25, 50, 99)]
    np.testing.assert_allclose(weights, [0.5, 0.25, 0.005, 0.005], rtol=1e-6)
    with pytest.raises(UserError, match="top is 1; expected 2"):
        TokenRanking(top=1)


def test_token_ranking_is_for_students_whose_rows_stay_in_place():
    ranked = TokenRanking(layers=(1,))
    assert not ranked.reads_states(TEACHER_CONFIG, TEACHER_CONFIG)
    gathers = TEACHER_CONFIG.replace(retention=Retention((0.5,) * 6))
    with pytest.raises(UserError, match="this student leaves out the rows of those that it drops"):
        ranked.build(gathers, TEACHER_CONFIG)
