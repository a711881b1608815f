"""The scripts as a user runs them: real processes, killed at random, started again."""

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import bertjax
from tests.train.tiny import ROOT, metrics, run, script, weights, write_model, write_table


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    write_model(folder / "model")
    write_table(folder / "train.tsv", 96)
    write_table(folder / "eval.tsv", 60, seed=1)
    write_table(folder / "unlabelled.tsv", 96, seed=2, labelled=False)
    return folder


def common(work: Path, train: str = "train.tsv") -> list[str]:
    data = [f"--data.train={work / train}", f"--data.eval={work / 'eval.tsv'}", "--data.max_length=16"]
    return [*data, "--batch_size=8"]


def finetune_flags(work: Path, out: str, *more: str) -> list[str]:
    recipe = ["--steps=6", "--save_every=2", "--optimiser.learning_rate=0.01"]
    return [f"--model={work / 'model'}", *common(work), *recipe, f"--out={work / out}", *more]


@pytest.fixture(scope="module")
def straight(work: Path) -> Path:
    """Six steps in one go."""
    run("finetune", *finetune_flags(work, "straight"))
    return work / "straight"


@pytest.mark.slow
def test_a_finished_run_leaves_a_bundle_and_its_metrics(straight: Path):
    lines = metrics(straight)
    assert [line["step"] for line in lines if line.get("event") == "checkpoint"] == [2, 4, 6]
    assert {"loss", "learning_rate", "gradient_norm"} <= next(line for line in lines if "loss" in line).keys()
    bundle = bertjax.load(straight / "bundle")
    assert bundle.config.labels == ("bad", "good")
    record = json.loads((straight / "run.json").read_text())
    assert record["result"].keys() == {"accuracy"}
    assert record["training_step_bytes"] > 0


@pytest.mark.slow
def test_the_same_command_again_leaves_a_finished_run_alone(work: Path, straight: Path):
    before = weights(straight)
    assert "finished already" in run("finetune", *finetune_flags(work, "straight")).stderr
    assert weights(straight) == before


@pytest.mark.slow
def test_another_command_on_the_same_folder_is_refused(work: Path, straight: Path):
    done = run("finetune", *finetune_flags(work, "straight", "--seed=1"), check=False)
    assert done.returncode == 2
    assert "seed: 0 -> 1" in done.stderr


def start(work: Path, name: str, flags: list[str]) -> subprocess.Popen:
    return subprocess.Popen(script(name, *flags), cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.slow
def test_sigterm_saves_and_the_run_continues_to_the_same_bits(work: Path, straight: Path):
    flags = finetune_flags(work, "stopped")
    with start(work, "finetune", flags) as process:
        wait_for(work / "stopped" / "checkpoints" / "2", process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
    events = [line["event"] for line in metrics(work / "stopped") if "event" in line]
    # The signal may come after the last step; then the run simply ends.
    assert process.returncode == (143 if "stopped" in events else 0), errors
    run("finetune", *flags)
    assert weights(work / "stopped") == weights(straight)


@pytest.mark.slow
def test_killed_at_random_moments_a_compression_ends_with_the_same_bits(work: Path):
    config = work / "trial.py"
    config.write_text(TRIAL)
    flags = [f"--config={config}", f"--model={work / 'model'}", *common(work)]
    began = time.monotonic()
    run("compress", *flags, f"--out={work / 'whole'}")
    took = time.monotonic() - began
    moments, kills = random.Random(0), 0
    while kills < 6:
        with start(work, "compress", [*flags, f"--out={work / 'cut'}"]) as process:
            try:
                process.wait(timeout=moments.uniform(0.1, 0.6) * took)
                if kills:
                    break
                # It found every program compiled, and was done before the first moment came: once more, sooner.
                shutil.rmtree(work / "cut")
                took /= 2
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
    run("compress", *flags, f"--out={work / 'cut'}")
    for stage in ("1-teacher", "3-student", "without-teacher", "4-fewer-words"):
        assert weights(work / "cut" / "stages" / stage) == weights(work / "whole" / "stages" / stage)
    more = [(work / name / "stages" / "2-augmented" / "augmented.jsonl").read_text() for name in ("cut", "whole")]
    assert more[0] == more[1]
    assert json.loads((work / "cut" / "stages" / "3-student" / "run.json").read_text())["config"]["data"]["labels"]
    for stage in ("1-teacher", "3-student", "without-teacher"):
        check_restarts(work / "cut" / "stages" / stage, save_every=3)
    scores = [[row["score"] for row in report(work / name)["rows"]] for name in ("cut", "whole")]
    assert scores[0] == scores[1]


def check_restarts(out: Path, save_every: int) -> None:
    """A run that is started again continues at its newest checkpoint, so no step is done again but those since."""
    stored = 0
    for line in metrics(out):
        if line.get("event") == "checkpoint":
            stored = line["step"]
        if line.get("event") in ("start", "restart"):
            # A checkpoint is complete a moment before or after its line is written.
            assert abs(stored - line["step"]) <= save_every
            assert (line["event"] == "restart") == (line["step"] > 0)


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


TRIAL = """
from bertjax.student import Student
from bertjax.distill.terms import HiddenStates, SoftTargets
from bertjax.recipes.augment import Augment
from bertjax.recipes.compress import Config
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.vocabulary import Vocabulary

fast = Optimiser(learning_rate=0.01)
config = Config(stages=(
    Finetune(steps=9, save_every=3, optimiser=fast),
    Augment(substitutes="neighbours", copies=2),
    Distill(steps=9, save_every=3, optimiser=fast, student=Student(num_hidden_layers=1, intermediate_size=16)),
    Vocabulary(),
))
"""


@pytest.mark.slow
def test_unlabelled_text_is_enough_to_distil(work: Path, straight: Path):
    recipe = ["--student.num_hidden_layers=1", "--steps=4", "--optimiser.learning_rate=0.01"]
    flags = [f"--model={straight / 'bundle'}", *common(work, "unlabelled.tsv"), *recipe, f"--out={work / 'quiet'}"]
    run("distill", *flags)
    assert bertjax.load(work / "quiet" / "bundle").config.num_hidden_layers == 1


@pytest.mark.slow
def test_a_loss_from_a_users_own_file_distils_and_is_recorded(work: Path, straight: Path):
    config = work / "own.py"
    config.write_text(OWN_LOSS)
    flags = [f"--config={config}", f"--model={straight / 'bundle'}", *common(work), f"--out={work / 'own'}"]
    run("distill", *flags, "--losses.1.weight=0.25")
    assert any("loss/1_LogitLength" in line for line in metrics(work / "own"))
    asked = json.loads((work / "own" / "run.json").read_text())["config"]["losses"]
    assert asked[1] == {"_type": "config_file_own.LogitLength", "weight": 0.25}


OWN_LOSS = """
from dataclasses import dataclass
from bertjax.distill.terms import SoftTargets
from bertjax.learn import Loss
from bertjax.recipes.distill import Config

@dataclass(frozen=True)
class LogitLength(Loss):
    weight: float = 0.5

    def build(self, student, teacher):
        import jax.numpy as jnp

        def loss(extra, student_out, teacher_out, batch):
            norms = [jnp.linalg.norm(out.hidden_states[-1][:, 0], axis=-1) for out in (student_out, teacher_out)]
            return jnp.sum(jnp.square(norms[0] - norms[1]) * batch["weights"]), batch["weights"].sum()

        return loss

config = Config(steps=10, losses=(SoftTargets(), LogitLength()))
"""


@pytest.mark.slow
def test_a_block_that_halts_by_itself_is_distilled_pays_for_its_steps_and_predicts(work: Path, straight: Path):
    config = work / "universal.py"
    config.write_text(UNIVERSAL)
    run("distill", f"--config={config}", f"--model={straight / 'bundle'}", *common(work), f"--out={work / 'universal'}")
    costs = [line["loss/ponder"] / 10 for line in metrics(work / "universal") if "loss/ponder" in line]
    assert all(1 < cost < 4 for cost in costs)
    assert costs[-1] < costs[0]  # at this price, thinking does not pay
    done = run("predict", f"--model={work / 'universal' / 'bundle'}", input="the lovely film\n")
    assert json.loads(done.stdout)["label"] in ("good", "bad")


UNIVERSAL = """
from bertjax.student import Student
from bertjax.model.depth import Halting, Recurrence
from bertjax.recipes.distill import Config
from bertjax.recipes.optimiser import Optimiser

student = Student(num_hidden_layers=2, groups=1, recurrence=Recurrence(2, "none", halting=Halting(bias=-1.0)))
config = Config(steps=40, student=student, ponder=10.0, optimiser=Optimiser(learning_rate=0.01))
"""


@pytest.mark.slow
def test_predict_labels_lines_from_standard_input(straight: Path):
    done = run("predict", f"--model={straight / 'bundle'}", input="the lovely film\n\na dull story\n")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == ["the lovely film", "", "a dull story"]
    assert all(abs(sum(answer["probabilities"].values()) - 1) < 1e-3 for answer in answers if answer["text"])


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_says_where(work: Path):
    done = run("finetune", *finetune_flags(work, "burst", "--optimiser.learning_rate=1e30"), check=False)
    assert done.returncode == 2
    assert "not finite at step" in done.stderr
    assert "Examples of that batch:" in done.stderr
    assert "learning rate 1e+30" in done.stderr or "e+2" in done.stderr


MISTAKES = {
    "no such folder": (["--model=nowhere"], "no model folder at nowhere"),
    "no such file": (["--data.train=nowhere.tsv"], "nowhere.tsv"),
    "no such column": (["--data.text=sentense"], "sentence"),
    "unknown field": (["--step=3"], "--steps"),
    "steps and epochs": (["--epochs=1"], "give one of the two"),
    "devices": (["--sharding.data=3"], "number of devices"),
    "no room": (["--out=/proc/nowhere"], "cannot write"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MISTAKES)
def test_a_users_mistake_ends_in_a_few_clear_lines(case: str, work: Path):
    flags, expected = MISTAKES[case]
    done = run("finetune", *finetune_flags(work, "mistake"), *flags, check=False)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 5
