"""Transforms of the training step in every command, as a user gives them: in a config file."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.distill.terms import SoftTargets
from bertjax.params import flatten
from bertjax.prune import LayerDrop, Movement
from bertjax.quantize.transforms import FakeQuantize
from bertjax.quantized.tensor import dequantised
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.pretrain import Text
from bertjax.student import Student
from tests.train.test_scripts import common, start, wait_for
from tests.train.tiny import metrics, run, weights, write_model, write_table
from train import compress, distill, exits, finetune, pretrain, prune, quantize

HALF = Movement(sparsity=0.5, begin=0.0, end=0.5)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("transforms")
    write_model(folder / "model", num_attention_heads=4)
    table = write_table(folder / "train.tsv", 96)
    write_table(folder / "eval.tsv", 60, seed=1)
    sentences = [line.partition("\t")[0] for line in table.read_text().splitlines()[1:]]
    (folder / "text.txt").write_text("\n".join(f"{line}." + "\n" * (i % 5 == 4) for i, line in enumerate(sentences)))
    recipe = {"steps": 12, "batch_size": 8, "optimiser": Optimiser(learning_rate=0.01)}
    finetune.main(finetune.Config(model=str(folder / "model"), data=data(folder), out=str(folder / "whole"), **recipe))
    return folder


def data(work: Path) -> Data:
    return Data(train=str(work / "train.tsv"), eval=str(work / "eval.tsv"), max_length=16)


COMMANDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "finetune": (finetune, {}),
    "distill": (distill, {"losses": (SoftTargets(),)}),
    "prune": (prune, {"losses": (SoftTargets(),), "heads": 0.5}),
    "quantize": (quantize, {"qat": "ste", "activations": "token"}),
    "exits": (exits, {"method": "joint"}),
    "pretrain": (pretrain, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_trains_accepts_transforms(name: str, work: Path):
    script, more = COMMANDS[name]
    source: Any = data(work)
    if script is pretrain:
        source = Text(train=str(work / "text.txt"), max_length=16)
    settings = {"model": str(work / "whole" / "bundle"), "data": source, "out": str(work / name), **more}
    script.main(script.Config(**settings, steps=4, batch_size=8, transforms=(HALF, LayerDrop(0.3))))
    params = flatten(dequantised(bertjax.load(work / name / "bundle").params))
    kernels = {path: leaf for path, leaf in params.items() if path.startswith("encoder/") and path.endswith("kernel")}
    for path, leaf in kernels.items():
        zeros = np.sum(np.asarray(leaf) == 0)
        assert zeros >= int(0.5 * leaf.size) if name == "quantize" else zeros == int(0.5 * leaf.size), path


ALL_THREE = """
from bertjax.distill.terms import AttentionMaps, HiddenStates, SoftTargets
from bertjax.prune import Movement
from bertjax.quantize.transforms import FakeQuantize
from bertjax.recipes.distill import Config

config = Config(
    losses=(SoftTargets(), HiddenStates(), AttentionMaps()),
    transforms=(Movement(sparsity=0.5, begin=0.0, end=0.5), FakeQuantize(activations="token")),
    steps=6,
    save_every=2,
)
"""


@pytest.mark.slow
def test_distilled_pruned_and_quantised_at_once_and_killed_it_ends_with_the_same_bits(work: Path):
    config = work / "all_three.py"
    config.write_text(ALL_THREE)
    flags = [f"--config={config}", f"--model={work / 'whole' / 'bundle'}", *common(work)]
    run("distill", *flags, f"--out={work / 'straight'}")
    with start(work, "distill", [*flags, f"--out={work / 'stopped'}"]) as process:
        wait_for(work / "stopped" / "checkpoints" / "2", process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
    events = [line["event"] for line in metrics(work / "stopped") if "event" in line]
    assert process.returncode == (143 if "stopped" in events else 0), errors
    run("distill", *flags, f"--out={work / 'stopped'}")
    assert weights(work / "stopped") == weights(work / "straight")
    bundle = bertjax.load(work / "straight" / "bundle")
    assert bundle.config.quantization is not None
    for path, leaf in flatten(dequantised(bundle.params)).items():
        if path.startswith("encoder/") and path.endswith("kernel"):
            assert np.mean(np.asarray(leaf) == 0) >= 0.5
    run("distill", *flags, f"--out={work / 'straight'}", "--transforms.0.sparsity=0.5")  # finished, and the same
    other = run("distill", *flags, f"--out={work / 'straight'}", "--transforms.0.sparsity=0.6", check=False)
    assert other.returncode == 2
    assert "transforms.0.sparsity: 0.5 -> 0.6" in other.stderr


@pytest.mark.slow
def test_depths_are_taken_out_of_a_model_trained_with_layerdrop(work: Path):
    write_model(work / "deep", num_hidden_layers=4)
    recipe: Any = {"steps": 8, "batch_size": 8, "optimiser": Optimiser(learning_rate=0.01)}
    finetune.main(
        finetune.Config(
            model=str(work / "deep"), data=data(work), out=str(work / "dropped"), transforms=(LayerDrop(0.5),), **recipe
        )
    )
    whole = flatten(bertjax.load(work / "dropped" / "bundle").params)

    def depths(out: str, **how: Any) -> Any:
        given = {"model": str(work / "dropped" / "bundle"), "data": data(work), "finetune_after": False}
        prune.main(prune.Config(**given, out=str(work / out), **how))
        return bertjax.load(work / out / "bundle")

    for out, how, kept in (
        ("every-other", {"layers": 0.5, "criterion": "evenly_spaced"}, [1, 3]),
        ("listed", {"keep_layers": (0, 1, 3)}, [0, 1, 3]),
    ):
        smaller = depths(out, **how)
        assert smaller.config.depth == len(kept)
        for number, layer in enumerate(kept):
            for path, leaf in flatten(smaller.params).items():
                if path.startswith(f"encoder/layer_{number}/"):
                    there = path.replace(f"layer_{number}/", f"layer_{layer}/", 1)
                    np.testing.assert_array_equal(leaf, whole[there])
    searched = depths("searched", layers=0.5, criterion="leave_one_out", iterations=2)
    assert searched.config.depth == 2
    with pytest.raises(bertjax.UserError, match="give one of the two"):
        prune.Config(layers=0.5, keep_layers=(0,))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            'transforms=("mask",)',
            r"transforms[0] is 'mask'; expected a frozen dataclass that subclasses bertjax.learn.Transform",
        ),
        ("penalties=(1.0,)", "penalties[0] is 1.0; expected a frozen dataclass that subclasses bertjax.learn.Penalty"),
        ("losses=(Bare(),)", "expected a frozen dataclass that subclasses bertjax.learn.Loss"),
    ],
)
def test_what_is_no_part_of_a_step_ends_in_one_line(flag: str, message: str, work: Path):
    config = work / "wrong.py"
    config.write_text(
        "from dataclasses import dataclass\nfrom bertjax.recipes.distill import Config\n"
        f"@dataclass(frozen=True)\nclass Bare:\n    weight: float = 1.0\nconfig = Config({flag})\n"
    )
    done = run("distill", f"--config={config}", f"--model={work / 'model'}", *common(work), check=False)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_students_of_the_recipes_can_be_read():
    from bertjax.engine.command_line import load_config

    for name in ("movement", "movement:soft", "movement:magnitude"):
        config = load_config(name, distill.Config)
        assert isinstance(config.transforms[0], Movement)
        assert config.student == Student(init_from="demo", as_is=True)
    assert isinstance(load_config("layerdrop", distill.Config).transforms[0], LayerDrop)
    assert load_config("layerdrop:control", distill.Config).transforms == ()
    for name in ("cofi", "cofi:size", "block_movement", "block_movement:hybrid"):
        assert load_config(name, distill.Config).transforms[0].removes_parts
    assert load_config("ziplm", prune.Config).criterion == "second_order"
    assert [stage.name for stage in load_config("ziplm:family", compress.Config).stages][1:4] == [
        "twice",
        "three-times",
        "four-times",
    ]
    assert FakeQuantize().stores_integers
