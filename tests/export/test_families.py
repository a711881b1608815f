"""The file of every family, head and kind of layer computes what its bundle does: alone, among others, in integers."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
import pytest

import bertjax
from bertjax.adaptive import full, segmented_model
from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.export import export
from bertjax.export.check import CLOSE, check_export, open_export, random_tokens
from bertjax.export.folder import write_export
from bertjax.export.onnx import onnx_model
from bertjax.measure.onnx import graphs
from bertjax.model import BottleneckConfig, ExitRule, Exits, Halting, LayerConfig, Recurrence, Retention
from bertjax.model.sites import integer_sites
from bertjax.params import Tree, flatten
from bertjax.quantize import Activation, Quantization, quantise_weights
from bertjax.quantize.activations import find_ranges
from bertjax.quantized.formats import INT8
from bertjax.quantized.tensor import Quantized
from tests.model.tiny import tiny
from tests.tolerances import OTHER_FRAMEWORK
from tests.train.tiny import write_model

SHAPES = ((1, 2), (3, 9), (4, 16))
"""Of 1 and 2 columns, as the shortest that texts have, and of as many as there are positions."""
THIN = BottleneckConfig(6, num_feedforward_networks=3, normalization_type="no_norm", trigram_input=True)
MOBILE: dict[str, Any] = {"model_type": "mobilebert", "embedding_size": 5, "hidden_act": "relu", "bottleneck": THIN}
PLAIN = dataclasses.replace(THIN, normalization_type="layer_norm", main_norm_eps=1e-2, trigram_input=False)
UNEQUAL = (LayerConfig(3, 10), LayerConfig(1, 4))
DEFAULT = Halting(bias=1.5)
TWICE = (LayerConfig(3, 10), LayerConfig(3, 10, attention=0, ffn=0, ffn_norm=1))


def mobile(architecture: str = "ForSequenceClassification", **bottleneck: Any) -> dict[str, Any]:
    more = dataclasses.replace(THIN, **bottleneck)
    return MOBILE | {"architecture": f"MobileBert{architecture}", "bottleneck": more}


def halting(rule: Halting = DEFAULT, architecture: str = "BertForSequenceClassification") -> dict[str, Any]:
    recurrence = Recurrence(6, "sinusoid", "learned", halting=rule)
    return {"architecture": architecture, "num_hidden_layers": 1, "recurrence": recurrence}


ENCODERS: dict[str, dict[str, Any]] = {
    "albert": {
        "model_type": "albert",
        "architecture": "AlbertForSequenceClassification",
        "embedding_size": 5,
        "num_hidden_groups": 1,
    },
    "two groups of two": {
        "model_type": "albert",
        "architecture": "AlbertForTokenClassification",
        "num_hidden_layers": 4,
        "num_hidden_groups": 2,
        "inner_group_num": 2,
    },
    "shared": {"layers": TWICE},
    "recurrent": {
        "architecture": "BertForSequenceClassification",
        "num_hidden_layers": 1,
        "recurrence": Recurrence(4),
        "hidden_act": "relu",
    },
    "recurrent, pre": {
        "architecture": "BertForTokenClassification",
        "recurrence": Recurrence(3, "sinusoid", "learned", first=0, layout="halves"),
        "norm": "pre",
    },
    "recurrent, of shared layers": {
        "architecture": "BertModel",
        "layers": TWICE,
        "recurrence": Recurrence(3, "learned", "none"),
    },
    "recurrent, without signals": {"recurrence": Recurrence(3, "none", "none")},
    "halting": halting(),
    "halting, accumulated": halting(Halting("accumulated", bias=1.0), "BertForTokenClassification"),
    "halting, frozen": halting(Halting(halted="frozen", bias=-1.0), "BertModel") | {"norm": "pre"},
    "halting, with a remainder": halting(Halting("accumulated", remainder_at_end=True, bias=-0.5)),
    "halting by example": halting(Halting(scope="example", bias=-0.5)) | {"layers": TWICE, "num_hidden_layers": 2},
    "mobilebert": mobile(),
    "mobilebert, tiny": mobile("Model", attention_input="input", num_feedforward_networks=1, dense_pooler=False),
    "mobilebert, teacher": mobile(
        "ForQuestionAnswering",
        **dataclasses.asdict(dataclasses.replace(PLAIN, intra_bottleneck_size=18, attention_input="block")),
    )
    | {"labels": ("start", "end")},
    "mobilebert, no bottleneck": mobile("ForTokenClassification", intra_bottleneck_size=0, trigram_input=False)
    | {"embedding_size": 12, "layers": UNEQUAL},
    "pre-norm": {"norm": "pre"},
    "pre-norm, every token": {"norm": "pre", "architecture": "BertForTokenClassification", "layers": UNEQUAL},
    "pre-norm, layers without heads or neurons": {"norm": "pre", "layers": (LayerConfig(0, 10), LayerConfig(2, 0))},
    "pre-norm, shared": {"norm": "pre", "architecture": "BertModel", "layers": TWICE},
    "masked words": {"architecture": "BertForMaskedLM"},
    "masked words, albert": {"model_type": "albert", "architecture": "AlbertForMaskedLM", "embedding_size": 5},
    "masked words, distilbert": {
        "model_type": "distilbert",
        "architecture": "DistilBertForMaskedLM",
        "type_vocab_size": 0,
    },
    "masked words, factorised": {"architecture": "BertForMaskedLM", "embedding_size": 5, "factorised": "words"},
    "masked words, mobilebert": mobile("ForMaskedLM"),
    "masked words, mobilebert as wide": mobile("ForMaskedLM", trigram_input=False) | {"embedding_size": 12},
    "pre-training": {"architecture": "BertForPreTraining"},
    "pre-training, albert": {"model_type": "albert", "architecture": "AlbertForPreTraining", "embedding_size": 5},
    "pre-training, mobilebert": mobile("ForPreTraining", dense_pooler=False),
    "pre-norm, dropping after attention": {
        "norm": "pre",
        "architecture": "BertForTokenClassification",
        "retention": Retention((0.7, 0.4)),
    },
    "pre-norm, dropping after layers": {
        "norm": "pre",
        "architecture": "BertModel",
        "retention": Retention((0.7, 0.4), after="layer"),
    },
    "masked words, dropping": {"architecture": "BertForMaskedLM", "retention": Retention((0.7, 0.4))},
    "mobilebert, exits": mobile() | {"exits": Exits((0,), exit_rule=ExitRule("max_probability", 0.5))},
    "next sentence": {"architecture": "BertForNextSentencePrediction"},
}


FIXED = "albert", "mobilebert", "mobilebert, teacher", "pre-norm, shared", "masked words", "pre-training, mobilebert"
PER_TOKEN = (
    "halting",
    "recurrent, pre",
    "mobilebert, tiny",
    "masked words, factorised",
    "next sentence",
)
"""Models whose inputs of products have one range, and one per token; a recurrent one has no fixed ranges."""


def model_of(**changes: Any) -> Bundle:
    """A random model in which a trigram next to padding is a trigram at the end of the batch."""
    model, params = tiny(**changes)
    params["embeddings"]["word"]["embedding"][model.config.pad_token_id] = 0
    if model.config.recurrence and (rule := model.config.recurrence.halting):
        params["encoder"]["halting"]["bias"][:] = rule.bias
    return Bundle(model.config, params)


def quantised(bundle: Bundle, fixed: bool) -> Bundle:
    """The model with integers wherever the default rules have some, with ranges of its own or ranges per token."""
    config, params = quantise_weights(bundle.config, bundle.params, INT8)
    batches = [random_tokens(config, *shape, number) for number, shape in enumerate(SHAPES[1:])]
    whole = Bundle(config, params)
    sites = (
        find_ranges(whole.model, params, batches, "min_max")
        if fixed
        else dict.fromkeys(integer_sites(whole.model, params), Activation())
    )
    assert config.quantization is not None
    return Bundle(config.replace(quantization=Quantization(config.quantization.weights, tuple(sites.items()))), params)


def session_of(model: Any, executed: str | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if executed:
        options.optimized_model_filepath = executed
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, inputs: Any) -> dict[str, np.ndarray]:
    named = dict(zip(("input_ids", "attention_mask", "token_type_ids"), inputs, strict=True))
    given = {one.name: named[one.name].astype(np.int64) for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, map(np.asarray, session.run(names, given)), strict=True))


def expected(bundle: Bundle, inputs: Any) -> dict[str, np.ndarray]:
    """Every output that a file may have, from the whole output of the model."""
    whole: Any = jax.jit(lambda params, arrays: bundle.model.apply({"params": params}, *arrays))(bundle.params, inputs)
    found = {"logits": whole.logits, "sentence_logits": whole.sentence_logits, "pooler_output": whole.pooled}
    found["last_hidden_state"] = whole.hidden_states[-1]
    if whole.tokens:
        states = whole.hidden_states, whole.tokens, None
        found["last_hidden_state"] = bundle.model.apply({"params": bundle.params}, *states, method="restore")
    if bundle.config.embedding:
        found["sentence_embedding"] = whole.logits
    if bundle.config.exits and bundle.config.exits.exit_rule:
        output = full(segmented_model(bundle.config), bundle.params, *inputs)
        found |= {"logits": output.logits, "depth": output.depths}
    if bundle.config.architecture.endswith("QuestionAnswering"):
        found |= {"start_logits": whole.logits[..., 0], "end_logits": whole.logits[..., 1]}
    if whole.trace is not None:
        found["depth"] = whole.trace.halting.steps.max(axis=1)
    return {name: np.asarray(array) for name, array in found.items() if array is not None}


def at_real(array: np.ndarray, mask: np.ndarray, per_token: bool) -> np.ndarray:
    """The rows of real tokens where there is one per token."""
    return array[mask > 0] if per_token else array


def is_per_token(name: str, bundle: Bundle) -> bool:
    heads = ("ForTokenClassification", "ForMaskedLM", "ForPreTraining")
    tokens = bundle.config.architecture.endswith(heads)
    return name in ("start_logits", "end_logits", "last_hidden_state") or (name == "logits" and tokens)


def assert_same(bundle: Bundle, session: onnxruntime.InferenceSession) -> None:
    """The file and the bundle agree on batches with padding, and the file on every text alone, without any."""
    for number, shape in enumerate(SHAPES):
        inputs = random_tokens(bundle.config, *shape, number)
        inputs = inputs[0] * inputs[1], *inputs[1:]
        given, ours = run(session, inputs), expected(bundle, inputs)
        for name, output in given.items():
            per_token = is_per_token(name, bundle)
            theirs, wanted = (at_real(one, inputs[1], per_token) for one in (output, ours[name]))
            np.testing.assert_allclose(theirs, wanted, **OTHER_FRAMEWORK, err_msg=name)
            np.testing.assert_array_equal(theirs.argmax(-1), wanted.argmax(-1), err_msg=name)
        for row in range(shape[0]):
            length = inputs[1][row].sum()
            alone = run(session, [array[row : row + 1, :length] for array in inputs])
            for name, output in alone.items():
                wanted = given[name][row][:length] if is_per_token(name, bundle) else given[name][row]
                np.testing.assert_allclose(output[0], wanted, **OTHER_FRAMEWORK, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_a_file_computes_what_its_bundle_does(name: str):
    bundle = model_of(**ENCODERS[name])
    assert_same(bundle, session_of(onnx_model(bundle.config, bundle.params)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fixed"), [*((name, True) for name in FIXED), *((name, False) for name in PER_TOKEN)])
def test_integers_do_too_and_are_multiplied_as_such(name: str, fixed: bool, tmp_path):
    import onnx

    bundle = quantised(model_of(**ENCODERS[name]), fixed)
    session = session_of(onnx_model(bundle.config, bundle.params), str(tmp_path / "executed.onnx"))
    differences: dict[str, list[float]] = {}
    for number, shape in enumerate(SHAPES[1:]):
        inputs = random_tokens(bundle.config, *shape, number)
        ours = expected(bundle, inputs)
        for output, given in run(session, inputs).items():
            difference = at_real(np.abs(given - ours[output]), inputs[1], is_per_token(output, bundle))
            differences.setdefault(output, []).extend(difference.reshape(len(difference), -1).max(axis=1))
    for output, found in differences.items():  # a number between two integers may fall to the other side
        assert np.median(found) < 1e-4, output
        assert np.max(found) < 0.5, output
    counts = Counter(node.op_type for one in graphs(onnx.load(tmp_path / "executed.onnx").graph) for node in one.node)
    integer = sum(counts[kind] for kind in ("MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul"))
    assert integer >= products_of(bundle), counts


def products_of(bundle: Bundle) -> int:
    """The number of products of the encoder with an integer matrix, each of a loop once."""
    counts = Counter(path.split("/")[1] for path in integer_kernels(bundle.params) if path.startswith("encoder/layer_"))
    steps, recurrence = bundle.config.depth_steps(), bundle.config.recurrence
    repeats = recurrence.steps if recurrence and not recurrence.halting else 1
    used = Counter(f"layer_{step.attention}" for step in steps)
    return repeats * sum(count * used[group] for group, count in counts.items())


def integer_kernels(params: Tree) -> list[str]:
    return [name for name, leaf in flatten(params).items() if isinstance(leaf, Quantized) and name.endswith("kernel")]


def stored(model: Any) -> int:
    """Bytes of a file."""
    return len(model.SerializeToString())


def floats(params: Tree) -> int:
    """Bytes of the parameters in float32."""
    return 4 * sum(np.size(leaf) for leaf in flatten(params).values())


WIDE = {"hidden_size": 96, "intermediate_size": 192}
DEEP: dict[str, dict[str, Any]] = {
    "albert": WIDE | {"num_hidden_layers": 12},
    "recurrent": WIDE | {"recurrence": Recurrence(12)},
}
"""Twelve layers that are one, wide enough that its weights are most of the file."""


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("name", ["albert", "recurrent"])
def test_what_is_applied_twelve_times_is_stored_once(name: str, integers: bool):
    bundle = model_of(**ENCODERS[name] | DEEP[name])
    whole = floats(bundle.params)
    if integers:
        bundle = quantised(bundle, fixed=False)
    model = onnx_model(bundle.config, bundle.params)
    assert sum(node.op_type == "Softmax" for node in model.graph.node) == 12
    assert stored(model) < (0.6 if integers else 1.25) * whole


def test_a_word_table_is_stored_once_for_both_ends():
    bundle = model_of(architecture="BertForMaskedLM", vocab_size=4000)
    assert stored(onnx_model(bundle.config, bundle.params)) < 1.25 * floats(bundle.params)
    small = quantised(bundle, fixed=True)
    assert stored(onnx_model(small.config, small.params)) < 0.6 * floats(bundle.params)


def write(folder: Path, **changes: Any) -> bertjax.Bundle:
    """A folder with such a model, whose size is that of its vocabulary."""
    whole = bertjax.load(write_model(folder))
    model, params = tiny(**changes, vocab_size=whole.config.vocab_size)
    bertjax.save(dataclasses.replace(whole, config=model.config, params=params), folder)
    return bertjax.load(folder)


@pytest.mark.parametrize(("row", "steps"), [(0, 3), (2, 2)])
def test_a_loop_ends_with_the_last_token_that_halts(row: int, steps: int):
    """Counted in the names of ONNX Runtime's own record of what it executed."""
    bundle = model_of(**halting())
    inputs = random_tokens(bundle.config, 4, 16, 5)
    inputs = tuple(array[row : row + 1] for array in inputs)
    depth = expected(bundle, inputs)["depth"].item()
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    model = onnx_model(bundle.config, bundle.params).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    assert run(session, inputs)["depth"] == depth
    record = Path(session.end_profiling())
    executed = [one["args"].get("op_name") for one in json.loads(record.read_text()) if "kernel_time" in one["name"]]
    record.unlink()
    assert executed.count("Softmax") == depth == steps


def test_a_file_does_not_grow_with_the_steps_that_it_may_take():
    sizes = [
        stored(onnx_model(one.config, one.params))
        for one in (model_of(**halting() | {"recurrence": Recurrence(s, halting=DEFAULT)}) for s in (2, 100))
    ]
    assert sizes[1] - sizes[0] < 100 * 12 * 4 + 500  # what grows is the table of signals


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recurrent", "mobilebert", "pre-norm", "pre-training", "halting"])
def test_the_command_checks_what_it_writes(name: str, tmp_path):
    bundle = write(tmp_path / "model", **ENCODERS[name])
    assert export(tmp_path / "model", "onnx", tmp_path / "out") < CLOSE
    inputs = random_tokens(bundle.config, 3, 9, 0)
    given = open_export("onnx", tmp_path / "out")(*inputs).output
    np.testing.assert_allclose(given[:, 0], expected(bundle, inputs)["logits"][:, 0], **OTHER_FRAMEWORK)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), [("pre-training", "seq_relationship"), ("pre-norm, shared", "pooler")])
def test_the_check_reads_every_output(name: str, part: str, tmp_path):
    """The first output is right; that of the other head is not."""
    bundle = model_of(**ENCODERS[name])
    write_export(bundle, "onnx", tmp_path, False, "int8")
    assert check_export(bundle, "onnx", tmp_path) < CLOSE
    bundle.params[part]["bias"] = bundle.params[part]["bias"] + 1
    with pytest.raises(UserError, match="the outputs of the export differ from JAX"):
        check_export(dataclasses.replace(bundle), "onnx", tmp_path)


@pytest.mark.parametrize("name", ["recurrent", "mobilebert", "pre-norm"])
def test_the_layer_that_differs_is_named(name: str, tmp_path):
    right, wrong = model_of(**ENCODERS[name]), model_of(**ENCODERS[name])
    last = wrong.config.depth_steps()[-1].ffn
    wrong.params["encoder"][f"layer_{last}"]["ffn"]["output"]["bias"][0] += 1.0  # a norm takes out what all share
    write_export(wrong, "onnx", tmp_path, False, "int8")
    with pytest.raises(UserError, match=f"defect of bertjax: layer {last} is the first to differ"):
        check_export(right, "onnx", tmp_path)
