"""What a folder says of its file is what the file holds."""

from collections import defaultdict
from typing import Any

import pytest

from bertjax.export import export
from bertjax.export.onnx import onnx_model
from bertjax.export.requirements import (
    EMBEDDING,
    EXITS,
    HALTING,
    LAYERS,
    OPERATORS,
    PER_TOKEN,
    STATIC,
    TOKENS,
    features,
)
from bertjax.measure.onnx import graphs
from bertjax.model import ExitRule, Exits, Halting, Retention
from bertjax.model.sentence import SentenceEmbedding
from bertjax.quantize import Format
from bertjax.storage.typed_json import read_json
from tests.export.test_families import ENCODERS, halting, model_of, quantised
from tests.export.test_packed import ROWS, pruned
from tests.train.tiny import write_model, write_roberta

onnx = pytest.importorskip("onnx", reason="an extra")
TAGS = "BertForTokenClassification"


def exits(rule: Any, threshold: float, **more: Any) -> dict[str, Any]:
    return {"exits": Exits((0,), exit_rule=ExitRule(rule, threshold), **more), "num_hidden_layers": 3}


MODELS: dict[str, list[dict[str, Any]]] = {
    LAYERS: [
        {"hidden_act": "gelu_new"},
        {"architecture": TAGS},
        ENCODERS["mobilebert"],
        ENCODERS["masked words"],
        ENCODERS["recurrent"],
    ],
    EMBEDDING: [
        {"architecture": "BertForSentenceEmbedding", "embedding": SentenceEmbedding(pooling, 5, "relu", True)}
        for pooling in ("mean", "cls", "max")
    ],
    EXITS: [
        *(exits(rule, 0.5) for rule in ("entropy", "max_probability", "margin")),
        {**exits("patience", 1), "exits": Exits((0, 1), exit_rule=ExitRule("patience", 1))},
        {
            "exits": Exits((0, 1), exit_rule=ExitRule("patience", 1, 0.1)),
            "num_hidden_layers": 3,
            "labels": ("score",),
            "problem_type": "regression",
        },
        exits("normalised_entropy", 0.5, reads="mean"),
    ],
    HALTING: [halting(), halting(Halting(scope="example", halted="frozen", remainder_at_end=True))],
    TOKENS: [
        {"retention": Retention((0.7, 0.4))},
        {"retention": Retention((0.7, 0.4), "random"), "architecture": TAGS},
        {"retention": Retention((1.0, 0.9), "all", thresholds=(0.02, 0.1))},
    ],
}


def operators(model: Any) -> set[str]:
    return {node.op_type for graph in graphs(model.graph) for node in graph.node}


def test_the_table_has_the_operators_of_every_feature_and_no_other():
    bundles = {name: [model_of(**changes) for changes in several] for name, several in MODELS.items()}
    bundles[STATIC], bundles[PER_TOKEN] = [quantised(model_of(), fixed=True)], [quantised(model_of(), fixed=False)]
    bundles[LAYERS] += [pruned(Format(bits), Format(bits, **ROWS)) for bits in (3, 4)]
    found = defaultdict(set)
    for feature, several in bundles.items():
        for bundle in several:
            assert features(bundle.config) == [LAYERS, *([] if feature == LAYERS else [feature])]
            found[feature] |= operators(onnx_model(bundle.config, bundle.params))
    found[LAYERS] |= {"Not", "CumSum", "Equal"}  # of models whose positions are counted, see below
    plain = set(OPERATORS[LAYERS])
    assert found[LAYERS] == plain
    for feature in set(OPERATORS) - {LAYERS}:
        assert found[feature] - plain == set(OPERATORS[feature]) - plain, feature


@pytest.mark.slow
def test_a_folder_says_what_it_needs(tmp_path):
    labels = {"architecture": "BertForSequenceClassification", "labels": ("a", "b"), "initializer_range": 0.3}
    export(write_model(tmp_path / "model", **labels, retention=Retention((0.8, 0.4))), "onnx", tmp_path / "out")
    said = read_json(tmp_path / "out" / "config.json")["bertjax"]["onnx"]
    model = onnx.load(tmp_path / "out" / "onnx" / "model.onnx")
    assert (said["opset"], said["ir_version"]) == (model.opset_import[0].version, model.ir_version)
    needed = onnx.defs.get_schema("GreaterOrEqual", 17).since_version  # the newest definition among its operators
    assert said["features"][TOKENS] == {"opset": needed, "onnxruntime": "1.12"}
    assert said["onnxruntime"] == "1.12"
    folder = write_roberta(tmp_path / "roberta", architecture="RobertaForSequenceClassification", labels=("a", "b"))
    export(folder, "onnx", tmp_path / "other")
    counted = operators(onnx.load(tmp_path / "other" / "onnx" / "model.onnx"))
    assert {"Not", "CumSum", "Equal"} <= counted <= set(OPERATORS[LAYERS])
