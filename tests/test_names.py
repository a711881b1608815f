"""Names and help texts use the field's words, and one word for one thing.

The words on the left are those that this project used before; on the right is what the field says.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

EVERYWHERE = {
    "contestant": "framework",
    "guess": "prediction, or teacher_out",
    "honest": "baseline",
    "lesson": "BoundLoss",
    "nobody": "none_exited, or no process",
    "piece": "token",
    "proof": "report",
    "prove": "build_report",
    "strongest": "select_top",
    "taught": "distilled",
    "thinned": "gradual_magnitude",
    "thinner": "gradual_magnitude",
    "thinning": "gradual_magnitude",
    "twin": "hf_equivalent, or scaled-down recipe",
    "walk": "early exit, SegmentedModel",
    "walker": "EarlyExitExecutor",
    "worth": "importance",
}
"""Words that no name and no help text holds, alone or beside others."""

IN_ROOM = {
    "adaptive": {
        "Leaving": "ExitRule",
        "Left": "ExitOutput",
        "After": "SegmentOutput",
        "Rows": "Carry",
        "settle": "record_exits",
    },
    "distill": {
        "said": "student_out, or teacher_out",
        "Sum": "WeightedSum",
        "Patience": "PatientStates",
        "SoftWords": "MLMSoftTargets",
        "asked_seconds": "teacher_seconds",
        "Student": "bertjax.student",
    },
    "engine": {
        "does": "heartbeat",
        "company": "cluster",
        "alone": "on_main_process",
        "agree": "broadcast_from_main",
        "share": "process_shard",
        "wait": "barrier",
        "told_to_stop": "should_preempt",
        "is_first": "is_main_process",
        "aside": "dry_run",
        "stand_ins": "placeholders",
        "rates": "lr_multipliers",
    },
    "export": {
        "twin": "hf_equivalent",
    },
    "jobs": {
        "bits": "mixed_precision",
        "depth_table": "early_exit_report",
        "cut": "prune",
        "asked_seconds": "teacher_seconds",
    },
    "learn": {
        "said": "student_out, or teacher_out",
        "Sum": "WeightedSum",
    },
    "measure": {
        "program": "hlo",
        "peak": "peak_flops",
        "edge": "cold_start",
    },
    "model": {
        "first_apart": "split_cls_row",
        "in_halves": "bf16_matmul",
        "fresh": "newly_initialized",
        "turned": "transpose",
        "Leaving": "ExitRule",
    },
    "prune": {
        "least_removal": "search_speedup",
        "without": "remove",
        "cut": "remove",
        "over": "pruning_end",
    },
    "quantize": {
        "Rounded": "QuantizedProduct",
        "find": "weight_range",
        "calibrate": "activation_range",
    },
    "quantized": {
        "inputs": "block_rows",
        "outputs": "block_cols",
        "find": "weight_range",
    },
    "recipes": {
        "average": "swa_fraction",
        "find": "weight_range",
        "learn": "qat",
        "over": "pruning_end",
        "rates": "lr_multipliers",
        "recover": "finetune_after",
        "rounds": "iterations",
        "runs": "model_soup",
        "score": "criterion",
        "texts": "calibration_examples",
        "words": "mlm_weight",
    },
    "storage": {
        "at": "as_path",
        "replaced": "atomic_folder",
        "added": "staged",
        "made_once": "cached_folder",
    },
    "student": {
        "start": "init_from",
        "whole": "as_is",
    },
}
"""Whole names of modules, functions, classes, parameters and fields that one room no longer has; others may."""

IN_HELP = {
    "rounds": "iterations, or repeats",
    "takes out": "prunes",
    "taken out": "pruned",
    "in the mean": "on average",
    "told from chance": "statistically distinguishable",
    "hears": "is given",
    "leaves early": "exits early",
    "leave early": "exit early",
    "thins": "prunes gradually",
    "said": "given",
}
"""Turns of phrase that no help text holds."""

FINE = {
    "guess_kind": "the kind of a task is a guess, which the user is told",
    "_walk": "over the equations of a jaxpr",
    "find": "the way in which a scale is found, a parameter and no field",
}
"""Names that hold one of these words in another sense, and which."""


def python_files() -> list[Path]:
    return [file for top in ("bertjax", "train", "configs", "tests") for file in sorted((ROOT / top).rglob("*.py"))]


def defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module gives: functions, classes, parameters, fields and constants."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    yield from (node.name for node in (*classes, *functions))
    yield from (node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))
    for node in (*tree.body, *(node for owner in classes for node in owner.body)):
        targets = (
            [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
        )
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def helps(tree: ast.Module) -> Iterator[str]:
    """The docstrings of classes and of their fields, and what parsers of arguments say."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if (
                    isinstance(line, ast.Expr)
                    and isinstance(line.value, ast.Constant)
                    and isinstance(line.value.value, str)
                ):
                    yield line.value.value
        elif isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def old_words(text: str) -> list[str]:
    """The words of `EVERYWHERE` in a name, whose parts are taken apart, or in a sentence; plurals count."""
    parts = [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)]
    return [
        word for part in parts for word in (part, part.removesuffix("s"), part.removesuffix("es")) if word in EVERYWHERE
    ]


def test_names_are_those_of_the_field():
    found = []
    for file in python_files():
        path = file.relative_to(ROOT)
        room = IN_ROOM.get(path.parts[1].removesuffix(".py"), {}) if path.parts[0] == "bertjax" else {}
        for name in sorted({file.stem, *defined(ast.parse(file.read_text()))} - FINE.keys()):
            found += [f"{path}: {name}: say {room[name]}"] if name in room else []
            found += [f"{path}: {name}: say {EVERYWHERE[word]}" for word in old_words(name)]
    assert found == []


def test_helps_are_in_words_of_the_field():
    found = []
    for file in (
        *sorted((ROOT / "bertjax").rglob("__main__.py")),
        *(ROOT / "bertjax" / "recipes").glob("*.py"),
        ROOT / "bertjax/student.py",
    ):
        for text in helps(ast.parse(file.read_text())):
            plain = " ".join(text.split())
            found += [
                f"{file.name}: {plain[:60]}: say {IN_HELP[words]}"
                for words in IN_HELP
                if re.search(rf"\b{words}\b", plain)
            ]
            found += [f"{file.name}: {plain[:60]}: say {EVERYWHERE[word]}" for word in old_words(plain)]
    assert found == []
