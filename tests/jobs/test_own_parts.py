"""A loss, a penalty, a transform and a pruning criterion of a user's own, in a config file, in a whole comparison."""

import json
from pathlib import Path

import numpy as np
import pytest

import bertjax
from bertjax.engine.command_line import parse
from bertjax.params import flatten
from bertjax.recipes.compare import Config
from tests.train.test_scripts import common
from tests.train.tiny import metrics, write_model, write_table
from train import compare

OWN_PARTS = """
from dataclasses import dataclass

from bertjax.distill.terms import SoftTargets
from bertjax.learn import Forward, Loss, Penalty, Transform
from bertjax.params import flatten, map_with_path
from bertjax.prune import Criterion
from bertjax.recipes.compare import Config, Row
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.prune import Prune
from bertjax.student import Student


@dataclass(frozen=True)
class LogitLength(Loss):
    def build(self, student, teacher):
        import jax.numpy as jnp

        def loss(extra, student_out, teacher_out, batch):
            longer = [jnp.square(out.logits).sum(-1) for out in (student_out, teacher_out)]
            return jnp.sum(jnp.abs(longer[0] - longer[1]) * batch["weights"]), batch["weights"].sum()

        return loss


@dataclass(frozen=True)
class SmallKernels(Penalty):
    weight: float = 1e-3

    def value(self, update, params, extra, state):
        return sum(abs(leaf).sum() for path, leaf in flatten(params).items() if path.endswith("kernel"))


@dataclass(frozen=True)
class WithoutBiases(Transform):
    pattern: str = "/bias"

    def apply(self, update, params, extra, state):
        return map_with_path(lambda path, x: x * 0 if path.endswith(self.pattern) else x, params), Forward()

    def finish(self, config, params, extra, state):
        return config, self.apply(None, params, extra, state)[0]


@dataclass(frozen=True)
class LastHeads(Criterion):
    scored = frozenset({"heads"})
    reads_text = False
    reads_labels = False

    def scores(self, model, batches, loss, part):
        import numpy as np

        heads = [step.num_attention_heads for step in model.config.depth_steps()]
        return {group: np.arange(count, dtype=float) for group, count in enumerate(heads)}


fast = Optimiser(learning_rate=0.01)
parts = {
    "losses": (SoftTargets(), LogitLength(0.1)),
    "transforms": (WithoutBiases(),),
    "penalties": (SmallKernels(),),
    "optimiser": fast,
}
config = Config(
    teacher=(Finetune(steps=8, batch_size=8, optimiser=fast),),
    student=Student(num_hidden_layers=1, intermediate_size=16),
    rows=(Row("own", (Distill(**parts), Prune(heads=0.5, criterion=LastHeads(), **parts))),),
    seeds=(0,),
    epochs=None,
    steps=8,
)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_model(folder / "model", num_attention_heads=4)
    write_table(folder / "train.tsv", 48, filler=(10, 12))
    write_table(folder / "eval.tsv", 40, seed=1, filler=(10, 12))
    (folder / "own.py").write_text(OWN_PARTS)
    return folder


@pytest.mark.slow
def test_parts_from_a_users_own_file_work_in_every_stage_of_a_comparison(work: Path, capsys):
    flags = [f"--config={work / 'own.py'}", f"--model={work / 'model'}", *common(work), f"--out={work / 'out'}"]
    compare.main(parse(Config, flags))
    report = json.loads((work / "out" / "report.json").read_text())
    assert {row["name"]: row["score"] for row in report["rows"]}["own"] is not None
    row = work / "out" / "rows" / "own" / "seed0"
    for stage in (row / "1-student", row / "2-pruned" / "recovery"):
        (logged,) = (line for line in metrics(stage) if line.get("step") == 4 and "loss" in line)
        assert {"loss/0_SoftTargets", "loss/1_LogitLength", "loss/0_SmallKernels"} <= set(logged)
        params = flatten(bertjax.load(stage / "bundle").params)
        assert not any(np.any(leaf) for path, leaf in params.items() if path.endswith("/bias"))
    whole, cut = (flatten(bertjax.load(row / name).params) for name in ("1-student/bundle", "2-pruned/cut"))
    for name in ("query", "key", "value"):  # the last two of four heads are left
        path = f"encoder/layer_0/attention/{name}/kernel"
        np.testing.assert_array_equal(cut[path], whole[path][:, 8:])
    capsys.readouterr()
    compare.main(parse(Config, flags))
    assert "finished already" in capsys.readouterr().err
