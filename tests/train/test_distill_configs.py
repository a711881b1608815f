"""One recipe per paper: at its published size built abstractly, and its small twin run for three steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.distill.terms import (
    AttentionMaps,
    AttentionScores,
    FeatureMaps,
    HardLabels,
    HiddenStates,
    MLMSoftTargets,
    PatientStates,
    Relations,
    SoftTargets,
)
from bertjax.engine.command_line import load_config
from bertjax.engine.optimiser import learning_rate_schedule
from bertjax.jobs.pretrain import learning
from bertjax.learn.assemble import assemble, loss_names
from bertjax.learn.objective import Teacher
from bertjax.learn.phases import Phases
from bertjax.model import BertConfig, abstract_params, mobile_config
from bertjax.params import count, flatten
from bertjax.recipes.pretrain import Text
from bertjax.recipes.sharding import Sharding
from tests.train.abstract import abstract_bundle, pretraining_batch, task_batch, traced_step
from tests.train.tiny import metrics, write_model, write_table
from train import augment, distill, pretrain

BASE = BertConfig(architecture="BertForSequenceClassification")
ONE_DEVICE = Sharding(1, 1)
GENERAL = {
    "distilbert": ("DistilBertModel", 66_362_880),
    "minilm": ("BertModel", 22_713_216),
    "minilm:v2": ("BertModel", 22_713_216),
    "tinybert:general": ("BertModel", 14_350_248),
}
OF_A_TASK = {"pkd": 66_955_008, "tinybert:intermediate": 14_350_248, "tinybert:prediction": 14_350_248}


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERAL)
def test_a_recipe_for_raw_text_has_the_published_size_and_can_be_traced(name: str):
    config, (architecture, size) = load_config(name, pretrain.Config), GENERAL[name]
    teacher = BertConfig(architecture="BertForMaskedLM" if config.mlm_weight else "BertModel", dtype=config.dtype)
    assert config.student is not None
    student = config.student.config(teacher)
    assert count(abstract_params(student.replace(architecture=architecture))) == size
    learnt = learning(config, abstract_bundle(student), abstract_bundle(teacher), 1000)
    found = traced_step(config, learnt, pretraining_batch(config))
    terms = {f"loss/{i}_{type(loss).__name__}" for i, loss in enumerate(config.losses)}
    assert terms <= found
    assert ("loss/words" in found) == (name == "distilbert")


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_A_TASK)
def test_a_recipe_for_a_task_has_the_published_size_and_can_be_traced(name: str):
    config = load_config(name, distill.Config)
    general = load_config("tinybert:general", pretrain.Config).student
    assert general is not None
    student = config.student.config(general.config(BASE) if name.startswith("tiny") else BASE)
    assert count(abstract_params(student.replace(architecture="BertModel"))) == OF_A_TASK[name]
    losses, teachers = loss_names(config.losses), (Teacher(abstract_bundle(BASE)),)
    found = traced_step(
        config,
        assemble(abstract_bundle(student), losses, steps=1000, seed=0, teachers=teachers),
        task_batch(config),
    )
    assert {f"loss/{name}" for name in losses} <= found


IB_BERT, LARGE = (
    mobile_config("teacher", dtype="bfloat16"),
    BertConfig(
        architecture="BertForPreTraining",
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        dtype="bfloat16",
    ),
)
MOBILE = {  # the teacher, and what each stage has to learn
    "mobilebert:layers": (IB_BERT, {"layers_0_FeatureMaps", "layers_1_AttentionMaps"}),
    "mobilebert": (IB_BERT, {"0_MLMSoftTargets"}),
    "mobilebert:layers_of_bert": (LARGE, {"layers_0_Relations"}),
    "mobilebert:from_bert": (LARGE, {"0_MLMSoftTargets"}),
}


@pytest.mark.slow
def test_mobileberts_teacher_is_the_published_one_and_its_step_can_be_traced():
    config = load_config("mobilebert:teacher", pretrain.Config)
    shape = config.shape.config(config.vocab_size or 0, "ForPreTraining", dtype=config.dtype)
    assert shape == IB_BERT
    shape = shape.replace(num_hidden_layers=3)  # of 24: time
    learnt = learning(config, abstract_bundle(shape), None, 1000)
    assert {"loss/words", "loss/sentences"} <= traced_step(config, learnt, pretraining_batch(config))


@pytest.mark.slow
@pytest.mark.parametrize("name", MOBILE)
def test_mobilebert_has_the_published_size_and_its_stages_can_be_traced(name: str):
    config, (teacher, learnt) = load_config(name, pretrain.Config), MOBILE[name]
    first = load_config("mobilebert:layers", pretrain.Config).student
    assert first is not None
    student = first.config(teacher)
    assert student == mobile_config("base", dtype="bfloat16")
    encoder = student.replace(architecture="MobileBertModel")
    assert count(abstract_params(encoder)) == 24_581_888
    assert encoder.bottleneck is not None
    pooled = replace(encoder.bottleneck, dense_pooler=True)
    assert count(abstract_params(encoder.replace(bottleneck=pooled))) == 24_844_544  # PyTorch's MobileBertModel
    student, teacher = (shape.replace(num_hidden_layers=3) for shape in (student, teacher))  # of 24: time
    whole = learning(config, abstract_bundle(student), abstract_bundle(teacher), config.total_steps(1))
    assert (whole.phases is not None) == ("layers" in name)
    found = traced_step(config, whole, pretraining_batch(config))
    assert {f"loss/{term}" for term in (*learnt, "words", "sentences")} <= found


def test_mobilebert_is_that_of_the_paper():
    teacher, layers, last = (
        load_config(f"mobilebert:{name}", pretrain.Config) for name in ("teacher", "layers", "config")
    )
    for config, steps in ((teacher, 500_000), (layers, 24 * 10_000), (last, 500_000)):
        assert (config.steps, config.batch_size, config.data.max_length) == (steps, 2048, 512)
        assert (config.optimiser.rule, config.sentences, config.masking.rate) == ("lamb", "next", 0.15)
    rate = learning_rate_schedule(last.optimiser, 500_000)
    assert [float(rate(step)) for step in (9_999, 500_000)] == pytest.approx([1.5e-3, 0])
    assert last.losses == (MLMSoftTargets(weight=0.5, temperature=1.0),)
    assert last.mlm_weight == 0.5
    assert layers.progressive is not None
    assert layers.progressive.losses == (
        FeatureMaps(weight=1 / 24, preset="official"),
        AttentionMaps(weight=1 / 24, preset="official"),
    )
    phases = Phases(24, layers.progressive.steps_per_layer, (), layers.progressive.below)
    rate = learning_rate_schedule(layers.optimiser, 240_000, phases)
    assert [float(rate(step)) for step in (999, 9_999, 10_999)] == pytest.approx([4.5e-3] * 3)
    assert float(rate(10_000)) < 1e-5  # each phase warms up anew
    assert [float(phases.share(layer, 15_000)) for layer in (0, 1, 2, 24)] == pytest.approx([0.1, 1, 0, 0])


def test_the_recipes_are_those_of_the_papers():
    distilbert, minilm, six = (load_config(name, pretrain.Config) for name in ("distilbert", "minilm", "tinybert:six"))
    assert six.student is not None
    assert count(abstract_params(six.student.config(BertConfig()))) == 66_955_008
    rate = learning_rate_schedule(distilbert.optimiser, 1000)
    assert [float(rate(step)) for step in (49, 1000)] == pytest.approx([5e-4, 0])
    assert (distilbert.optimiser.b2, distilbert.optimiser.clip, distilbert.optimiser.weight_decay) == (0.98, 5, 0)
    assert distilbert.losses[0] == MLMSoftTargets(weight=5.0, temperature=2.0, everywhere=True)
    assert (distilbert.mlm_weight, distilbert.losses[1].weight) == (2, 1)
    assert (minilm.steps, minilm.batch_size, minilm.optimiser.learning_rate) == (400_000, 512, 4e-4)
    assert [type(loss) for loss in minilm.losses] == [Relations]
    pkd = load_config("pkd", distill.Config)
    assert [(type(loss), pytest.approx(loss.weight)) for loss in pkd.losses] == [
        (HardLabels, 0.3),
        (SoftTargets, 0.7),
        (PatientStates, 100),
    ]
    patience = pkd.losses[2]
    assert isinstance(patience, PatientStates)
    assert patience.pairs(BASE.replace(num_hidden_layers=6), BASE) == ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10))
    layers, answers = (load_config(f"tinybert:{name}", distill.Config) for name in ("intermediate", "prediction"))
    assert layers.losses == (AttentionScores(preset="paper"), HiddenStates(preset="paper"))
    constant = learning_rate_schedule(layers.optimiser, 1000)
    assert float(constant(0)) == float(constant(999)) == pytest.approx(5e-5)
    assert answers.losses == (SoftTargets(temperature=1.0, preset="tinybert"),)
    assert load_config("tinybert:augment", augment.Config).tried == 20


IMPOSSIBLE = {
    "no teacher": ({"model": None}, "give --model, its teacher"),
    "no student": ({"student": None}, "give student, its shape"),
    "nothing to learn": ({"losses": ()}, "leaves nothing to learn"),
    "no head to ask": ({"sentences": "order"}, "--mlm_weight=0 leaves no head"),
    "nothing hidden": ({"mlm_weight": 1.0}, "hides no words to guess"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_learnt_from_raw_text_is_answered(case: str):
    changes, expected = IMPOSSIBLE[case]
    with pytest.raises(bertjax.UserError, match=expected):
        replace(load_config("minilm", pretrain.Config), **changes)


def test_packed_rows_are_for_losses_that_read_tokens_one_by_one():
    teacher = abstract_bundle(BertConfig(architecture="BertForMaskedLM"))

    def packed(name: str, **changes: Any) -> set[str]:
        config = replace(load_config(name, pretrain.Config), packed=True, **changes)
        assert config.student is not None
        student = abstract_bundle(config.student.config(teacher.config))
        return set(loss_names(config.losses)) if learning(config, student, teacher, 1000) else set()

    with pytest.raises(bertjax.UserError, match="Relations would take the examples of a row for one"):
        packed("minilm")
    with pytest.raises(bertjax.UserError, match="MLMSoftTargets would take the examples of a row for one"):
        packed("distilbert")  # it reads the logits of all tokens
    assert packed("distilbert", losses=(MLMSoftTargets(),)) == {"0_MLMSoftTargets"}


# --- their small twins -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A model that guesses words and one that labels texts, of one vocabulary, with a table and a text of it."""
    folder = tmp_path_factory.mktemp("recipes")
    sizes: dict[str, Any] = {
        "hidden_size": 96,
        "num_attention_heads": 12,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    write_model(folder / "words", architecture="BertForMaskedLM", **sizes)
    sizes |= {"architecture": "BertForSequenceClassification", "initializer_range": 0.05}
    write_model(folder / "teacher", labels=("bad", "good"), **sizes)
    table = write_table(folder / "train.tsv", 40)
    sentences = [line.partition("\t")[0] for line in table.read_text().splitlines()[1:]]
    (folder / "text.txt").write_text("\n".join(f"{line}." + "\n" * (i % 5 == 4) for i, line in enumerate(sentences)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTJAX_CACHE", str(folder / "cache"))
        yield folder


def three_steps(work: Path, name: str, script: Any, **changes: Any) -> bertjax.Bundle:
    """A twin with less text and narrower models, run; its losses must be there and finite."""
    config, out = load_config(name, script.Config), work / name.replace(":", "-")
    sources = {"train": str(work / "text.txt"), "max_length": 16} if script is pretrain else {"max_length": 16}
    if script is distill:
        sources |= {"train": str(work / "train.tsv"), "eval": str(work / "train.tsv")}
    elif config.data.eval:
        sources |= {"eval": sources["train"]}
    common = {"epochs": None, "steps": 3, "batch_size": 8, "save_every": 3, "sharding": ONE_DEVICE, "out": str(out)}
    changes = {**common, **changes}
    student = replace(config.student, num_hidden_layers=2)
    if student.hidden_size:
        student = replace(student, hidden_size=48, intermediate_size=32)
    if student.init_from not in ("teacher", "random"):
        student = replace(student, init_from=changes.pop("init_from"))
    script.main(replace(config, data=replace(config.data, **sources), student=student, **changes))
    last = [line for line in metrics(out) if "loss" in line][-1]
    assert all(last[f"loss/{i}_{type(loss).__name__}"] > 0 for i, loss in enumerate(config.losses))
    return bertjax.load(out / "bundle")


@pytest.mark.slow
def test_small_distilbert_recipe_makes_a_stock_distilbert(work: Path):
    student = three_steps(work, "distilbert:small", pretrain, model=str(work / "words"))
    assert (student.config.model_type, student.config.architecture) == ("distilbert", "DistilBertForMaskedLM")
    assert not student.newly_initialized


def test_a_teacher_whose_head_was_never_trained_is_refused(work: Path):
    with pytest.raises(bertjax.UserError, match="no trained MLM head"):
        three_steps(work, "distilbert:small", pretrain, model=str(work / "teacher"), out=str(work / "untrained"))


@pytest.mark.slow
def test_small_minilm_recipe_leaves_an_encoder(work: Path):
    student = three_steps(work, "minilm:small_v2", pretrain, model=str(work / "words"))
    assert (student.config.architecture, student.config.hidden_size) == ("BertModel", 48)


@pytest.mark.slow
def test_small_pkd_recipe_begins_with_layers_of_the_model_that_was_not_fine_tuned(work: Path):
    teacher, start = str(work / "teacher"), str(work / "words")
    student = three_steps(work, "pkd:small", distill, model=teacher, init_from=start)
    words = [bertjax.load(folder).params["embeddings"]["word"]["embedding"] for folder in (start, teacher)]
    moved = [abs(student.params["embeddings"]["word"]["embedding"] - table).max() for table in words]
    assert moved[0] < 1e-3 < moved[1]


@pytest.mark.slow
def test_small_tinybert_recipe_goes_through_all_stages(work: Path):
    general = three_steps(work, "tinybert:small_general", pretrain, model=str(work / "words"))
    assert general.config.hidden_size == 48
    teacher, start = str(work / "teacher"), str(work / "tinybert-small_general" / "bundle")
    three_steps(work, "tinybert:small_intermediate", distill, model=teacher, init_from=start)
    start = str(work / "tinybert-small_intermediate" / "bundle")
    student = three_steps(work, "tinybert:small_prediction", distill, model=teacher, init_from=start)
    assert (student.config.hidden_size, student.config.labels) == (48, ("bad", "good"))


@pytest.mark.slow
def test_small_mobilebert_recipe_goes_through_all_stages(work: Path):
    """Words are learnt, then each of two layers in a step of its own, then words again, and what came of it is a stock
    MobileBERT. Embeddings and head of the student are the teacher's until the last stage."""
    common = {"steps": 3, "batch_size": 8, "save_every": 3, "sharding": ONE_DEVICE}
    data = Text(train=str(work / "text.txt"), max_length=16)
    teacher, layers, last = (
        replace(load_config(f"mobilebert:{name}", pretrain.Config), data=data, out=str(work / name), **common)
        for name in ("small_teacher", "small_layers", "small")
    )
    pretrain.main(replace(teacher, shape=replace(teacher.shape, num_hidden_layers=2), vocab_size=60))
    folder = str(work / "small_teacher" / "bundle")
    assert layers.student is not None
    assert layers.progressive is not None
    pretrain.main(
        replace(
            layers,
            model=folder,
            student=replace(layers.student, num_hidden_layers=2),
            progressive=replace(layers.progressive, steps_per_layer=1),
            steps=2,
        )
    )
    assert {"loss/layers_0_FeatureMaps", "loss/layers_1_AttentionMaps"} <= metrics(work / "small_layers")[-2].keys()
    ours, theirs = (bertjax.load(work / name / "bundle") for name in ("small_layers", "small_teacher"))
    for path in ("embeddings/word/embedding", "embeddings/mapping/kernel", "decoder_rest", "transform/kernel"):
        np.testing.assert_array_equal(flatten(ours.params)[path], flatten(theirs.params)[path])
    assert (flatten(ours.params)["embeddings/layer_norm/scale"] == 1).all()
    assert last.student is not None
    start = replace(last.student, init_from=str(work / "small_layers" / "bundle"))
    pretrain.main(replace(last, model=folder, student=start))
    found = [line for line in metrics(work / "small") if "loss" in line][-1]
    assert found["loss/0_MLMSoftTargets"] > 0
    assert found["loss/words"] > 0
    student = bertjax.load(work / "small" / "bundle")
    assert (student.config.model_type, student.config.architecture) == ("mobilebert", "MobileBertForMaskedLM")
    assert not student.newly_initialized
