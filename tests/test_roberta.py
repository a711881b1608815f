"""Every technique on a RoBERTa, from a folder to a folder: three steps of training or one call, and the same model when
it is opened again. What does not apply is refused with the reason."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import bertjax
from bertjax.bundle import Bundle
from bertjax.distill.terms import AttentionMaps, HardLabels, HiddenStates, PatientStates, Relations, SoftTargets
from bertjax.errors import UserError
from bertjax.export import export
from bertjax.export.hf_equivalent import hf_equivalent
from bertjax.measure.onnx import longest_input
from bertjax.model import abstract_params, roberta_config
from bertjax.model.hf_config import config_to_json
from bertjax.params import flatten
from bertjax.predict import Predictions
from bertjax.prune import BlockMovement, CoFi, GradualMagnitude, LayerDrop, Movement
from bertjax.quantize.transforms import FakeQuantize
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.pretrain import Text
from bertjax.student import Student
from bertjax.text.masking import Masking
from bertjax.token_dropping import LearnedThresholds, LengthDrop, RankGates, SoftExtraction
from tests.tolerances import OTHER_FRAMEWORK
from tests.train.tiny import write_roberta, write_table
from train import augment, distill, drop_tokens, exits, finetune, pretrain, prune, quantize, ticket, vocabulary

TEXTS = ["the film a fine story", "its music and cast very dull often", "naïve", ""]
STEPS: dict[str, Any] = {"steps": 3, "batch_size": 8, "optimiser": Optimiser(learning_rate=0.01)}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A RoBERTa of two layers with byte-level BPE, without a head and fine-tuned, and text."""
    folder = tmp_path_factory.mktemp("roberta")
    write_roberta(folder / "model")
    write_table(folder / "train.tsv", 48)
    write_table(folder / "eval.tsv", 24, seed=1)
    sentences = [line.partition("\t")[0] for line in (folder / "train.tsv").read_text().splitlines()[1:]]
    (folder / "text.txt").write_text("\n".join(f"{line}." + "\n" * (i % 5 == 4) for i, line in enumerate(sentences)))
    finetune.main(finetune.Config(model=str(folder / "model"), data=data(folder), out=str(folder / "tuned"), **STEPS))
    return folder


def data(work: Path, **more: Any) -> Data:
    return Data(train=str(work / "train.tsv"), eval=str(work / "eval.tsv"), max_length=32, **more)


def raw(work: Path) -> Text:
    return Text(train=str(work / "text.txt"), eval=str(work / "text.txt"), max_length=32)


STUDENT = Student(num_hidden_layers=1)
SAME = Student(num_hidden_layers=2)
ALONE = {"student": SAME, "losses": (SoftTargets(),)}
TECHNIQUES: dict[str, tuple[Any, dict[str, Any]]] = {
    "fine-tuned on packed rows": (finetune, {"packed": True}),
    "distilled": (distill, {"student": STUDENT, "losses": (SoftTargets(), HiddenStates(), AttentionMaps())}),
    "distilled by states": (distill, {"student": SAME, "losses": (PatientStates(), Relations(heads=2), HardLabels())}),
    "narrow": (distill, {"student": Student(num_hidden_layers=1, hidden_size=8, init_from="random")}),
    "tied": (distill, {"student": Student(num_hidden_layers=2, groups=1)}),
    "factorised": (distill, {"student": Student(num_hidden_layers=2, embedding_size=8)}),
    "without heads": (prune, {"heads": 0.5, "finetune_after": False}),
    "without neurons": (prune, {"neurons": 0.5}),
    "without a layer": (prune, {"layers": 0.5, "finetune_after": False}),
    "second order": (prune, {"heads": 0.25, "neurons": 0.25, "criterion": "second_order", "finetune_after": False}),
    "zeros": (prune, {"weights": 0.5, "finetune_after": False}),
    "gradual zeros": (distill, {"student": SAME, "transforms": (GradualMagnitude(),)}),
    "movement": (distill, {"student": SAME, "transforms": (Movement(sparsity=0.5, begin=0.0, end=0.5),)}),
    "block movement": (distill, {"student": SAME, "transforms": (BlockMovement(sparsity=0.5, begin=0.0, end=0.5),)}),
    "hidden columns": (distill, {"student": SAME, "transforms": (CoFi(sparsity=0.3, warmup=0.1, end=0.5),)}),
    "dropped layers": (distill, {"student": SAME, "transforms": (LayerDrop(0.3),)}),
    "a ticket": (ticket, {"iterations": 1, "sparsity": 0.5}),
    "int8": (quantize, {}),
    "int8 for each token": (quantize, {"activations": "token"}),
    "quantised in training": (quantize, {"qat": "lsq"}),
    "all at once": (distill, {"student": SAME, "transforms": (Movement(0.5, begin=0.0, end=0.5), FakeQuantize())}),
    "exits": (exits, {"method": "joint"}),
    "exits on the pooler": (exits, {"head": "shared_pooler", "method": "self_distil"}),
    "fewer tokens": (drop_tokens, {"shares": (0.7, 0.5)}),
    "soft extraction": (distill, {**ALONE, "transforms": (SoftExtraction(),)}),
    "random lengths": (distill, {**ALONE, "transforms": (LengthDrop(),)}),
    "thresholds": (distill, {**ALONE, "transforms": (LearnedThresholds(),)}),
    "rank gates": (distill, {**ALONE, "transforms": (RankGates(flops=0.1, first=1, warmup=0.1, end=0.5),)}),
}
UNTRAINED = ("int8", "int8 for each token")


def probabilities(predicted: Predictions) -> np.ndarray:
    assert predicted.probabilities is not None
    return predicted.probabilities


def reopened(folder: Path, again: Path) -> Bundle:
    """The bundle of a folder, which another folder that is written from it equals."""
    bundle = bertjax.load(folder)
    bertjax.save(bundle, again)
    copy = bertjax.load(again)
    assert copy.config == bundle.config
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    return bundle


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(CoFi|RankGates). ")  # three updates miss the target
@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_leaves_a_model_that_is_the_same_when_it_is_opened_again(name: str, work: Path, tmp_path: Path):
    script, settings = TECHNIQUES[name]
    source = "model" if script is ticket else "tuned/bundle"
    recipe = {"batch_size": 8} if name in UNTRAINED else STEPS
    given = {"model": str(work / source), "data": data(work), "out": str(tmp_path / "out"), **recipe, **settings}
    script.main(script.Config(**given))
    bundle = reopened(tmp_path / "out" / "bundle", tmp_path / "again")
    assert bundle.config.position_offset == 2
    assert bundle.tokenizer is not None
    assert bundle.tokenizer.encode(TEXTS).ids == bertjax.load(work / "tuned" / "bundle").tokenizer.encode(TEXTS).ids  # type: ignore[union-attr]
    found = probabilities(bundle.predict(TEXTS))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, probabilities(bertjax.load(tmp_path / "again").predict(TEXTS)))
    stock = json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] != "bertjax"
    if stock:
        theirs, texts = AutoTokenizer.from_pretrained(tmp_path / "again"), TEXTS[:3]
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").eval()
        with torch.no_grad():
            logits = model(**theirs(texts, padding=True, return_tensors="pt")).logits
        np.testing.assert_allclose(found[:3], torch.softmax(logits, -1).numpy(), **OTHER_FRAMEWORK)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["words", "tokens"])
@pytest.mark.parametrize("packed", [True, False])
def test_it_is_pre_trained_on_raw_text_and_opens_in_transformers(unit: Any, packed: bool, work: Path, tmp_path: Path):
    settings = {"sentences": "none", "masking": Masking(unit=unit), "packed": packed, **STEPS}
    student = {} if packed else {"student": STUDENT, "losses": (SoftTargets(),), "mlm_weight": 0.5}
    out = tmp_path / "out"
    teacher = work / "model"
    if student:  # a teacher needs the head
        teacher = tmp_path / "teacher" / "bundle"
        config = pretrain.Config(model=str(work / "model"), data=raw(work), out=str(teacher.parent), **settings)
        pretrain.main(config)
        student["losses"] = (HiddenStates(),)
    pretrain.main(pretrain.Config(model=str(teacher), data=raw(work), out=str(out), **settings, **student))
    bundle = reopened(out / "bundle", tmp_path / "again")
    assert bundle.config.architecture == "RobertaForMaskedLM"
    model = AutoModelForMaskedLM.from_pretrained(out / "bundle").eval()
    ids = np.array([bundle.tokenizer.encode(TEXTS[:1]).ids[0]], np.int32)  # type: ignore[union-attr]
    with torch.no_grad():
        theirs = model(torch.tensor(ids).long()).logits.numpy()
    ours = bundle.model.apply({"params": bundle.params}, ids).logits  # type: ignore[union-attr]
    np.testing.assert_allclose(np.asarray(ours), theirs, **OTHER_FRAMEWORK)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tuned/bundle", "int8/bundle", "heads/bundle"])
@pytest.mark.parametrize("to", ["onnx", "stablehlo", "huggingface"])
def test_it_is_exported_and_computes_the_same(name: str, to: Any, work: Path, tmp_path: Path):
    common: dict[str, Any] = {"model": str(work / "tuned" / "bundle"), "data": data(work), "batch_size": 8}
    quantize.main(quantize.Config(out=str(work / "int8"), **common))
    prune.main(prune.Config(out=str(work / "heads"), heads=0.5, finetune_after=False, **common))
    distance = export(work / name, to, tmp_path / "out", dequantise=to == "huggingface")
    assert distance < (1e-2 if name.startswith("int8") else 1e-4)
    assert longest_input(tmp_path / "out") == 64
    if to == "huggingface":
        bundle = bertjax.load(work / name)
        config, params = hf_equivalent(bundle.config, bundle.params, dequantise=True)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
        ids = np.array([[0, 7, 9, 11, 2, 1, 1]], np.int32)
        with torch.no_grad():
            theirs = model(torch.tensor(ids).long(), torch.tensor(ids != 1).long()).logits.numpy()
        twin = Bundle(config, params)
        ours = twin.model.apply({"params": params}, ids, (ids != 1).astype(np.int32)).logits  # type: ignore[union-attr]
        np.testing.assert_allclose(np.asarray(ours), theirs, **OTHER_FRAMEWORK)


def test_an_onnx_file_counts_positions_as_transformers_does(work: Path, tmp_path: Path):
    """With padding on the left, and without types, which RoBERTa's tokenizers do not give."""
    import onnxruntime

    export(work / "tuned" / "bundle", "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(str(next((tmp_path / "out" / "onnx").glob("*.onnx"))))
    assert {one.name for one in session.get_inputs()} == {"input_ids", "attention_mask"}
    ids = np.array([[1, 1, 0, 7, 9, 2], [0, 7, 1, 9, 2, 1], [0, 7, 9, 11, 12, 2]])
    model = AutoModelForSequenceClassification.from_pretrained(work / "tuned" / "bundle").eval()
    mask = (ids != 1).astype(np.int64)
    with torch.no_grad():
        theirs = model(torch.tensor(ids), torch.tensor(mask)).logits.numpy()
    ours: Any = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
    np.testing.assert_allclose(ours, theirs, **OTHER_FRAMEWORK)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "augmentation": (augment, {"copies": 2, "substitutes": "neighbours"}, "the model's tokenizer is not WordPiece"),
    "distilbert": (distill, {"student": Student(family="distilbert"), **STEPS}, "needs a teacher of class BertModel"),
    "sentences": (pretrain, {"sentences": "order", **STEPS}, "is a roberta, which has no token types"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_apply_is_refused_with_the_reason(name: str, work: Path, tmp_path: Path):
    script, settings, reason = REFUSED[name]
    source = raw(work) if script is pretrain else data(work)
    model = work / "model" if script in (pretrain, augment) else work / "tuned" / "bundle"
    with pytest.raises(UserError, match=re.escape(reason)):
        script.main(script.Config(model=str(model), data=source, out=str(tmp_path / "out"), **settings))


def test_its_vocabulary_loses_what_the_text_never_uses_and_its_outputs_stay(work: Path, tmp_path: Path):
    model, few = str(work / "tuned" / "bundle"), write_table(tmp_path / "few.tsv", 2)
    text = Data(train=str(few), eval=str(work / "eval.tsv"), max_length=32)
    vocabulary.main(vocabulary.Config(model=model, data=text, out=str(tmp_path / "out")))
    before, after = bertjax.load(model), reopened(tmp_path / "out" / "bundle", tmp_path / "again")
    assert 256 < after.config.vocab_size < before.config.vocab_size
    texts = [line.partition("\t")[0] for line in few.read_text().splitlines()[1:]]
    np.testing.assert_array_equal(probabilities(after.predict(texts)), probabilities(before.predict(texts)))


def test_a_mobilebert_that_learns_from_it_counts_the_same_positions_and_is_no_stock_model():
    student = Student(num_hidden_layers=1, family="mobilebert", num_attention_heads=4).config(roberta_config("roberta"))
    assert (student.model_type, student.position_offset, student.max_tokens) == ("mobilebert", 2, 512)
    assert config_to_json(student)["model_type"] == "bertjax"
    assert abstract_params(student)["embeddings"]["position"]["embedding"].shape == (514, 768)


def test_the_fine_tuned_folder_is_a_stock_one(work: Path):
    content = json.loads((work / "tuned" / "bundle" / "config.json").read_text())
    assert content["model_type"] == "roberta"
    assert content["architectures"] == ["RobertaForSequenceClassification"]
    assert content["max_position_embeddings"] == 66
    assert flatten(bertjax.load(work / "tuned" / "bundle").params).keys() >= {"pooler/kernel", "classifier/kernel"}
