"""Every family with every head, every family with every technique, and every head with every technique, as a file.

The whole product has hundreds of models. Mistakes lie where two parts meet, so the table is a part of the product that
has every pair of them that a config allows.
"""

import dataclasses
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.export.check import near_ties, open_export, random_tokens
from bertjax.export.folder import write_export
from bertjax.export.onnx import onnx_model
from bertjax.measure.integer_products import inexact_products
from bertjax.model import BertConfig, Exits, Halting, LayerConfig, Recurrence, Retention
from bertjax.model.heads import ARCHITECTURES
from bertjax.model.sentence import SentenceEmbedding
from tests.export.test_families import MOBILE, TWICE, expected, is_per_token, model_of, quantised, run, session_of
from tests.export.test_onnx_exits import spreading
from tests.model.tiny import TINY

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {"model_type": "distilbert", "type_vocab_size": 0},
    "albert": {"model_type": "albert", "embedding_size": 5, "num_hidden_groups": 1},
    "roberta": {
        "model_type": "roberta",
        "type_vocab_size": 1,
        "position_offset": 2,
        "pad_token_id": 1,
        "max_position_embeddings": 18,
    },
    "mobilebert": MOBILE,
    "pre-norm": {"norm": "pre"},
    "recurrent": {"num_hidden_layers": 1, "recurrence": Recurrence(3, "sinusoid", "learned")},
}
PREFIXES = {"distilbert": "DistilBert", "albert": "Albert", "roberta": "Roberta", "mobilebert": "MobileBert"}
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "classes": ("ForSequenceClassification", {}),
    "several labels": ("ForSequenceClassification", {"problem_type": "multi_label_classification"}),
    "a number": ("ForSequenceClassification", {"problem_type": "regression", "labels": ("score",)}),
    "tags": ("ForTokenClassification", {}),
    "answers": ("ForQuestionAnswering", {}),
    "masked words": ("ForMaskedLM", {}),
    "pre-training": ("ForPreTraining", {}),
    "next sentence": ("ForNextSentencePrediction", {}),
    "an embedding": ("ForSentenceEmbedding", {"embedding": SentenceEmbedding("mean", normalise=True)}),
    "none": ("Model", {}),
}
DEEP: dict[str, Any] = {"num_hidden_layers": 3}
FEWER = {"retention": Retention((0.7, 0.4)), "num_hidden_layers": 2}
HALTS = {"num_hidden_layers": 1, "recurrence": Recurrence(4, halting=Halting(bias=-0.5))}
TECHNIQUES: dict[str, dict[str, Any]] = {
    "plain": {},
    "pruned": {"layers": (LayerConfig(2, 7), LayerConfig(0, 4), LayerConfig(1, 0)), **DEEP},
    "shared": {"layers": TWICE, "num_hidden_layers": 2},
    "factorised": {"embedding_size": 5, "factorised": "words"},
    "exits": {"exits": Exits((0, 1)), **DEEP},
    "exits of a mean": {"exits": Exits((-1, 1), reads="mean"), **DEEP},
    "exits of one head": {"exits": Exits((0, 1), "shared"), **DEEP},
    "fewer tokens": FEWER,
    "fewer tokens by a threshold": {
        **FEWER,
        "retention": Retention((1.0, 0.9), "all", "layer", thresholds=(0.05, 0.1)),
    },
    "exits of fewer tokens": {"exits": Exits((0, 1)), "retention": Retention((0.8, 0.5, 0.3)), **DEEP},
    "halting": HALTS,
}
INTEGERS = {"integers": True, "integers by token": False}
"""Techniques on top of others, with whether their ranges are fixed."""
Case = tuple[str, str, str, str]


def config_of(family: str, head: str, technique: str) -> BertConfig | None:
    """None for what no config can be."""
    suffix, about = HEADS[head]
    architecture = PREFIXES.get(family, "Bert") + suffix
    if architecture not in ARCHITECTURES:
        return None
    try:
        return TINY.replace(**FAMILIES[family] | about | TECHNIQUES[technique] | {"architecture": architecture})
    except UserError:
        return None


def allowed() -> Iterator[Case]:
    """The whole product, as far as there are such configs. A recurrent model has no fixed ranges."""
    for family, head, technique, rounding in product(FAMILIES, HEADS, TECHNIQUES, ("floats", *INTEGERS)):
        config = config_of(family, head, technique)
        if config is None or (family == "recurrent" and technique == "halting"):
            continue
        if not (config.recurrence and rounding == "integers"):
            yield family, head, technique, rounding


def pairs(case: Case) -> set[Any]:
    return set(combinations(enumerate(case), 2))


def table() -> list[Case]:
    """Cases in which all pairs of the product occur: always the next one that has the most new pairs."""
    cases = list(allowed())
    left, found = set[Any]().union(*map(pairs, cases)), []
    while left:
        best = max(cases, key=lambda case: len(left & pairs(case)))
        found.append(best)
        left -= pairs(best)
    return found


def made(case: Case) -> Bundle:
    family, head, technique, rounding = case
    config = config_of(family, head, technique)
    assert config is not None
    bundle = model_of(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})
    if rounding in INTEGERS:
        bundle = quantised(bundle, INTEGERS[rounding])
    if config.exits is None or config.problem_type == "multi_label_classification":
        return bundle
    run_all = jax.jit(lambda params, arrays: bundle.model.apply({"params": params}, *arrays).exit_logits)  # type: ignore[union-attr]
    output: Any = type("Output", (), {"exit_logits": run_all(bundle.params, batch(bundle))})
    rule = spreading("patience" if len(config.labels) == 1 else "max_probability", output)
    with_rule = dataclasses.replace(config.exits, exit_rule=rule)
    return dataclasses.replace(bundle, config=bundle.config.replace(exits=with_rule))


def batch(bundle: Bundle) -> Any:
    ids, mask, types = random_tokens(bundle.config, 6, 16, 3)
    return ids * mask, mask, types


CASES = table()


def test_the_table_has_every_pair_and_is_short():
    assert set().union(*map(pairs, CASES)) == set().union(*map(pairs, allowed()))
    assert 60 < len(CASES) < 110


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_a_file_computes_what_its_bundle_does_alone_and_in_a_batch(case: Case, tmp_path: Path):
    bundle, rounds = made(case), case[-1] in INTEGERS
    write_export(bundle, "onnx", tmp_path, False, "int8")
    session, inputs = session_of(onnx_model(bundle.config, bundle.params)), batch(bundle)
    given, ours = run(session, inputs), expected(bundle, inputs)
    sure = ~near_ties(bundle, inputs)
    assert sure.mean() > 0.6
    for name, output in given.items():
        per_token = is_per_token(name, bundle)
        mask = inputs[1] * sure[:, None]
        theirs, wanted = (one[mask > 0] if per_token else one[sure] for one in (output, ours[name]))
        compare(theirs, wanted, rounds, name)
    assert inexact_products(tmp_path) == ()
    for row in np.flatnonzero(sure):
        length = inputs[1][row].sum()
        alone = run(session, [array[row : row + 1, :length] for array in inputs])
        for name, output in alone.items():
            wanted = given[name][row][:length] if is_per_token(name, bundle) else given[name][row]
            compare(output[0], wanted, rounds, name)


PROGRAMS = [next(case for case in CASES if case[2] == technique) for technique in TECHNIQUES]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*PROGRAMS, ("bert", "none", "fewer tokens", "floats")], ids=", ".join)
def test_so_does_a_program(case: Case, tmp_path: Path):
    bundle, rounds = made(case), case[-1] in INTEGERS
    write_export(bundle, "stablehlo", tmp_path, False, "int8")
    run_program, inputs = open_export("stablehlo", tmp_path), batch(bundle)
    whole = expected(bundle, inputs)
    ours, sure = whole.get("logits", whole["last_hidden_state"]), ~near_ties(bundle, inputs)
    assert sure.mean() > 0.6
    output, depths = run_program(*inputs)
    assert (depths is not None) == ("depth" in whole)
    if depths is not None:
        assert depths[sure].tolist() == whole["depth"][sure].tolist()
    [row] = np.flatnonzero(sure)[-1:]
    length = inputs[1][row].sum()
    alone, depth = run_program(*(array[row : row + 1, :length] for array in inputs))
    if ours.ndim == 3:
        real = (inputs[1] * sure[:, None]) > 0
        compare(output[real], ours[real], rounds, "in a batch")
        compare(alone[0], ours[row, :length], rounds, "alone")
    else:
        compare(output[sure], ours[sure], rounds, "in a batch")
        compare(alone[0], ours[row], rounds, "alone")
    assert depth is None or depth[0] == whole["depth"][row]


def compare(given: np.ndarray, wanted: np.ndarray, rounds: bool, name: str) -> None:
    """Numbers agree to 1e-5, and so do answers. In integers, one value rounded to the other side changes its text."""
    if rounds:
        assert np.median(np.abs(given - wanted)) < 1e-4, name
        return
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(given.argmax(-1), wanted.argmax(-1), err_msg=name)
