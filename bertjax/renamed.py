"""Fields, values and classes of version 0.1.0 that have new names.

Files on disk (configs of models, records of runs) are read under both names. An old flag, or an old field in a config
file, is an error that names the new one.
"""

from typing import Any

FIELDS = {
    "asked": "teacher_passes",
    "average": "swa_fraction",
    "calibrate": "activation_range",
    "find": "weight_range",
    "inputs": "block_rows",
    "learn": "qat",
    "leaving": "exit_rule",
    "outputs": "block_cols",
    "over": "pruning_end",
    "patience": "step_timeout",
    "rates": "lr_multipliers",
    "recover": "finetune_after",
    "rounds": "iterations",
    "runs": "model_soup",
    "score": "criterion",
    "start": "init_from",
    "texts": "calibration_examples",
    "whole": "as_is",
    "words": "mlm_weight",
}
VALUES = {
    "runtime": {"onnx": "onnxruntime"},
    "qat": {"nothing": "off", "weights": "ste", "scales": "lsq"},
    "substitutes": {"guesses": "predictions"},
    "unit": {"pieces": "tokens"},
}
CLASSES = {"Patience": "PatientStates", "SoftWords": "MLMSoftTargets"}


def renamed(content: dict[str, Any], known: Any) -> dict[str, Any]:
    """A JSON object with its old field names replaced, where the new name is in `known` and the old one is not."""
    result = {}
    for name, value in content.items():
        new = FIELDS.get(name, "") if name not in known and FIELDS.get(name) in known else name
        result[new] = VALUES.get(new, {}).get(value, value) if isinstance(value, str) else value
    if result.get("_type") in CLASSES:
        result["_type"] = CLASSES[result["_type"]]
    return result
