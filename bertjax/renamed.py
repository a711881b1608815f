"""Names that version 0.1.0 had and this one has otherwise.

What is on disk is read under either name: configs of models, records of runs. A flag or a field of a config file with
an old name is an error that gives the new one.
"""

from typing import Any

FIELDS = {
    "asked": "teacher_passes",
    "average": "swa_fraction",
    "calibrate": "activation_range",
    "find": "weight_range",
    "inputs": "block_rows",
    "learn": "qat",
    "outputs": "block_cols",
    "over": "pruning_end",
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
VALUES = {"qat": {"nothing": "off", "weights": "ste", "scales": "lsq"}}
CLASSES = {"Patience": "PatientStates", "SoftWords": "MLMSoftTargets"}


def renamed(content: dict[str, Any], known: Any) -> dict[str, Any]:
    """An object of JSON with the new names of its fields, where those are `known` and the old ones are not."""
    found = {}
    for name, value in content.items():
        new = FIELDS.get(name, "") if name not in known and FIELDS.get(name) in known else name
        found[new] = VALUES.get(new, {}).get(value, value) if isinstance(value, str) and new != name else value
    if found.get("_type") in CLASSES:
        found["_type"] = CLASSES[found["_type"]]
    return found
