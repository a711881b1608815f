"""Folders with anything changed in their JSON, opened as `load` and the gate do it: plain words, or the same answers.

A seed makes some dozens of changes. By hand, with more seeds:

    python -m tests.test_fuzz_folders 200
"""

import contextlib
import copy
import dataclasses
import io
import json
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import bertjax
from bertjax.bundle import matching_tokenizer
from bertjax.model import BertConfig, ExitRule, Exits, LayerConfig, abstract_params
from bertjax.params import map_with_path
from bertjax.quantize import Activation, Quantization, quantise_weights
from bertjax.text.tokenizer import Tokenizer
from bertjax.text.tokenizer_files import from_vocabulary
from bertjax.verify.folder import claims_of, classes_of, config_of, named_bundle, runtime_of

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film", "dull", "plot", "##s", "##er"]
TEXTS = ["a fine film", "dulls plots [E1] Fine", "", "finer"]
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "report.json")
CHANGES = 12
SECONDS = 10.0  # of a processor: nothing waits for anything, and other work on the machine is no hang
MEANT = {
    "config.json": {
        *("hidden_act", "layer_norm_eps", "num_attention_heads", "head_size", "problem_type", "id2label", "labels"),
        *("classifier_activation", "position_embedding_type", "max_position_embeddings", "model_type", "architectures"),
        *("exits", "after", "exit_rule", "rule", "threshold", "tolerance", "reads", "attention", "ffn", "layers"),
        *("attention_norm", "ffn_norm", "recurrence", "norm", "bits", "low", "high", "activations", "weights"),
        *("quantization", "tokenizer_class", "bertjax"),
    },
    "tokenizer.json": {"*"},
    "tokenizer_config.json": {"*"},
    "report.json": {"metric", "baseline", "rows", "name", "bundle", "score", "score_ci95", "size_bytes", "latency_ms"},
}
"""Keys that say how a model answers, or into which tokens a text is cut: another value of the right kind may change the
answers, for that is what it is for; of a report, what is claimed. A star stands for the whole file: a vocabulary and
its rules."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3.5, 1e-12, 1e30, 10**30, -0.0, "", "2", "gelu", "evil", "\ud800", "a" * 5000),
    *([], [2], {}, {"0": "neg"}, {"neg": 0}, [[]], [{}], float("nan"), float("inf"), "bert", "../..", "\0"),
)


class Change(NamedTuple):
    """One change: to which file, of what kind, and of which key, if it was one."""

    file: str
    kind: str
    key: str


# --- the folders -----------------------------------------------------------------------------------------------------


def stock(folder: Path) -> Path:
    return saved(folder, {})


def own(folder: Path) -> Path:
    """Integers, ranges, layers of their own, and exits at which texts leave."""
    exits = Exits((0,), exit_rule=ExitRule("max_probability", 0.5))
    return saved(folder, {"layers": (LayerConfig(2, 6), LayerConfig(1, 5)), "exits": exits, "head_size": 4})


def saved(folder: Path, fields: dict[str, Any]) -> Path:
    """A small classifier with its report."""
    config = BertConfig(
        architecture="BertForSequenceClassification",
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=6,
        max_position_embeddings=16,
        labels=("neg", "pos"),
        **fields,
    )
    draws = np.random.default_rng(0)
    shapes = abstract_params(config)
    params = map_with_path(lambda path, leaf: draws.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
    if fields:
        config, params = quantise_weights(config, params)
        site = ("step_0/attention/query", Activation(8, -3.0, 3.0))
        assert config.quantization is not None
        config = config.replace(quantization=Quantization(config.quantization.weights, (site,)))
    words = from_vocabulary({word: number for number, word in enumerate(WORDS)}, {})
    bertjax.save(bertjax.Bundle(config, params, Tokenizer.wrap(words)), folder)
    (folder / "digests.json").unlink()  # which would refuse every change, and what stands behind it is the point
    row = {"name": "s", "bundle": ".", "score": 0.8, "score_ci95": [0.7, 0.9], "size_bytes": 9}
    row |= {"latency_ms": {"batch_1": {"p50": 2.0, "p95": 3.0}, "end_to_end": {"p50": 2.0, "p95": 3.0}}}
    report = {"task": "x", "metric": "accuracy", "baseline": "s", "rows": [row, row | {"name": "t", "bundle": "../t"}]}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def answers(folder: Path, file: str, whole: bertjax.Bundle) -> Any:
    """What comes of the folder where this file is another: what `load` and `predict` give, or what the gate reads
    before it measures. `whole` is what the folder was, for the parts that the file has no say in."""
    if file == "report.json":
        return claims_of(folder, folder, "accuracy")
    if file == "config.json":
        bundle = bertjax.load(folder)
        read = runtime_of(folder), classes_of(folder), named_bundle(folder), config_of(folder) and None
    else:
        bundle, read = dataclasses.replace(whole, tokenizer=matching_tokenizer(folder, whole.config)), ()
    given = bundle.predict(TEXTS)
    return given.labels, np.round(np.asarray(given.probabilities), 5).tolist(), given.depths, read


# --- the changes -----------------------------------------------------------------------------------------------------


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every (object or list, key) in a JSON value."""
    below = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, child in list(below):
        yield content, key
        yield from places(child)


def changed(file: str, text: str, rng: random.Random) -> tuple[bytes, Change]:
    """The file with one thing changed."""
    kind = rng.choice(
        ("delete", *["value"] * 5, *["nudge"] * 3, "swap", "wrap", "rename", "cut", "flip", "double", "deep", "digits")
    )
    content = copy.deepcopy(json.loads(text))
    branch, key = rng.choice(list(places(content)))
    name = key if isinstance(key, str) else ""
    if kind in ("cut", "flip"):
        raw = bytearray(text.encode())
        place = rng.randrange(len(raw))
        if kind == "flip":
            raw[place] ^= 1 << rng.randrange(8)
        return bytes(raw[:place] if kind == "cut" else raw), Change(file, kind, "*")
    if kind == "delete":
        del branch[key]
    elif kind == "value":
        branch[key] = rng.choice(VALUES)
    elif kind == "nudge":
        branch[key] = nudged(branch[key], rng)
    elif kind == "swap":
        other, place = rng.choice(list(places(content)))
        branch[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(branch[key])
    elif kind == "wrap":
        branch[key] = rng.choice(([branch[key]], {name: branch[key]}, str(branch[key])))
    elif kind == "rename" and isinstance(branch, dict):
        branch[rng.choice((f"{name}x", name.upper(), "spin"))] = branch.pop(key)
    raw = json.dumps(content)
    if kind in ("deep", "digits", "double"):
        depth = rng.choice((50, 2000, 100_000))
        added = {"deep": "[" * depth + "]" * depth, "digits": "9" * depth, "double": "2"}[kind]
        raw = f'{{"{rng.choice([*content, "unheard"])}": {added}, {raw[1:]}'
    return raw.encode("utf-8", "surrogatepass"), Change(file, kind, "*" if kind == "swap" else name)


def nudged(value: Any, rng: random.Random) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice((value + 1, value - 1, value * 2, -value, value / 2))
    if isinstance(value, str):
        return rng.choice(
            ("relu", "pre", "patience", "mean", "shared", "BertModel", "regression", "bert", "a", value + "x")
        )
    return list(value.values()) if isinstance(value, dict) else value[:-1] if isinstance(value, list) else 1


def is_meant(change: Change, before: str, after: bytes) -> bool:
    """Whether the change touches a key that is there to change answers."""
    known = MEANT[change.file]
    if "*" in known or change.key in known:
        return True
    if change.key != "*":
        return ancestors(before, change.key) & known != set()
    try:
        old, new = json.loads(before), json.loads(after)
    except ValueError:
        return False
    return bool(differing(old, new) & known)


def ancestors(text: str, key: str) -> set[str]:
    """The keys under which a key stands; list items and ids of labels stand under theirs."""
    found: set[str] = set()

    def look(content: Any, above: tuple[str, ...]) -> None:
        if isinstance(content, dict):
            for name, child in content.items():
                if name == key or key == "":
                    found.update(above)
                look(child, (*above, name))
        elif isinstance(content, list):
            for child in content:
                look(child, above)

    look(json.loads(text), ())
    return found - {"bertjax"}


def differing(old: Any, new: Any, key: str = "") -> set[str]:
    """Keys at which two JSON values differ, and those above them."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = old.keys() | new.keys()
        return {name for n in names if old.get(n) != new.get(n) for name in (n, *differing(old.get(n), new.get(n), n))}
    return {key}


# --- the test --------------------------------------------------------------------------------------------------------


def fuzz(
    seed: int, folders: dict[Path, tuple[bertjax.Bundle, dict[str, Any]]], work: Path
) -> tuple[Counter[str], list[str]]:
    """What came of a seed's changes, and what should not have."""
    rng, outcomes, wrong = random.Random(seed), Counter[str](), []
    for number in range(CHANGES):
        source, (whole, expected) = rng.choice(list(folders.items()))
        folder = Path(shutil.copytree(source, work / f"{seed}-{number}"))
        file = rng.choice(FILES)
        text = (folder / file).read_text(encoding="utf-8")
        raw, change = changed(file, text, rng)
        (folder / file).write_bytes(raw)
        begun, outcome = time.process_time(), ""
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                given = answers(folder, file, whole)
            outcome = (
                "same" if given == expected[file] else "meant" if is_meant(change, text, raw) else "SILENTLY OTHER"
            )
        except bertjax.UserError as error:
            outcome = "refused" if len(str(error).splitlines()) <= 5 and len(str(error)) < 2000 else "A LONG STORY"
        except BaseException as error:  # a panic of a library in Rust is no Exception
            outcome = f"TRACEBACK {type(error).__name__}: {str(error)[:200]}"
        if time.process_time() - begun > SECONDS:
            outcome = "TOO LONG"
        outcomes[outcome.split(":")[0]] += 1
        if outcome.isupper() or outcome.startswith("TRACEBACK"):
            wrong.append(f"seed {seed}, {number}: {source.name} {change} {outcome}\n  {difference(text, raw)}")
        shutil.rmtree(folder)
    return outcomes, wrong


def difference(before: str, after: bytes) -> str:
    """Where a file begins to differ, for a message."""
    old = json.dumps(json.loads(before)).encode()
    place = next((i for i, (a, b) in enumerate(zip(old, after, strict=False)) if a != b), min(len(old), len(after)))
    return repr(after[max(place - 60, 0) : place + 60])


def both(work: Path) -> dict[Path, tuple[bertjax.Bundle, dict[str, Any]]]:
    """The folders, each with its bundle and with what comes of it."""
    made = {folder: bertjax.load(folder) for folder in (stock(work / "stock"), own(work / "own"))}
    return {folder: (whole, {file: answers(folder, file, whole) for file in FILES}) for folder, whole in made.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[Path, tuple[bertjax.Bundle, dict[str, Any]]]:
    return both(tmp_path_factory.mktemp("folders"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_changed_folder_is_refused_in_plain_words_or_answers_as_before(seed, folders, tmp_path):
    outcomes, wrong = fuzz(seed, folders, tmp_path)
    assert not wrong, "\n".join(wrong)
    assert outcomes.total() == CHANGES


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found, total, complaints = both(Path(place)), Counter[str](), []
        for one in range(int(sys.argv[1]) if len(sys.argv) > 1 else 200):
            more, wrong = fuzz(one, found, Path(place))
            total += more
            complaints += wrong
        print(*complaints, sep="\n")
        print(dict(total))
