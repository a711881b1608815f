"""What it costs to learn from a teacher's insides, beside a teacher and a student that know nothing of each other.

    python -m tests.benchmarks.overhead [--repeats=7] [--batch_size=32] [--length=64]

MiniLM-L6 teaches a student with two of its layers, with every loss of TinyBERT: hidden states, attention scores, soft
targets. Compared are a distillation step with the teacher in it, one with the teacher's outputs stored (reading them
and bringing them to the device counts), and what these consist of: the forward pass of the teacher and a fine-tuning
step of the student. Both of these compute one row of the last layer, the one that a classifier reads, and the losses
need all; so they are also run with every row, and only what remains is what learning costs. All are of one runtime,
so they take turns in one process: each once a repeat, ratios within a repeat, then the median.

On two quiet CPU cores, with --repeats=40: 1.06 [1.04, 1.19] times teacher and student with every row where the teacher
is in the step, 1.10 [1.06, 1.29] times the student's step with stored outputs; against one row of the last layer 1.43
and 1.74.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import bertjax
from bertjax.distill.teacher import stored_outputs
from bertjax.distill.terms import AttentionScores, HardLabels, HiddenStates, SoftTargets
from bertjax.engine.optimiser import build_optimiser
from bertjax.learn import Loss
from bertjax.learn.step import Objective, Term, init_state, make_step
from bertjax.machine.allocator import keep_freed_memory
from bertjax.predict import forward
from bertjax.recipes.optimiser import Optimiser
from bertjax.student import Student
from bertjax.text.batches import batches, inputs_of
from bertjax.text.encode import encode_examples
from bertjax.text.examples import Examples
from bertjax.text.tasks import Task

TINYBERT = (HiddenStates(), AttentionScores(), SoftTargets())
LEARNING = ("with the teacher in the step", "with stored outputs")


@dataclass(frozen=True)
class EveryRow(Loss):
    """The labels, and a trace of every row of the last layer, so that all of them are computed."""

    reads_labels: ClassVar[bool] = True
    reads_teacher: ClassVar[bool] = False

    def build(self, student: Any, teacher: Any) -> Any:
        labels = HardLabels().build(student, teacher)

        def formula(extra: Any, student_out: Any, teacher_out: Any, batch: Any) -> Any:
            total, count = labels(extra, student_out, teacher_out, batch)
            return total + 1e-12 * jnp.sum(jnp.square(student_out.hidden_states[-1])), count

        return formula


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        ways = frameworks(Path(folder), arguments.batch_size, arguments.length)
        for run in ways.values():
            run()
        repeats = [{name: seconds(run) for name, run in ways.items()} for _ in range(arguments.repeats)]
    for name in ways:
        print(f"{name:32} {1000 * np.median([r[name] for r in repeats]):7.1f} ms")
    alone, whole = ("teacher forward", "student step"), ("teacher, every row", "student step, every row")
    pairs = [(name, base[first:]) for base in (alone, whole) for name, first in zip(LEARNING, (0, 1), strict=True)]
    for name, base in pairs:
        ratios = [r[name] / sum(r[part] for part in base) for r in repeats]
        print(f"{name} / ({' + '.join(base)}): {np.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")


def seconds(run: Any) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def frameworks(folder: Path, size: int, length: int) -> dict[str, Any]:
    """Functions that do one step each and return when it is done."""
    teacher = bertjax.load("demo", architecture="BertForSequenceClassification", labels=("bad", "good"))
    assert teacher.tokenizer is not None
    words = ["a", "film", "that", "is", "neither", "good", "nor", "bad", "but", "long"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 2 * length)) for _ in range(4 * size)]
    labels = [("bad", "good")[i] for i in rng.integers(0, 2, len(texts))]
    task = Task(kind="classification", labels=("bad", "good"))
    encoded = encode_examples(Examples(texts, None, labels, source="noise"), task, teacher.tokenizer, length)
    student = Student(num_hidden_layers=2).initialise(teacher, 0, encoded)
    asked = [loss.needs(student.config, teacher.config) for loss in TINYBERT]
    needs = frozenset().union(*(need for need in asked if need))
    stored = stored_outputs(folder, teacher, encoded, needs)
    data = batches(encoded, size, seed=0, buckets=(length,))
    held = jax.device_put(teacher.params)

    def step_with(losses: tuple, said_of: Any, prepare: Any, constants: Any) -> Any:
        formulas = [(loss.weight, loss.build(student.config, teacher.config)) for loss in losses]

        def terms_of(params, extra, state, batch, update, key):
            student_out = student.model.apply({"params": params}, *inputs_of(batch), rngs={"dropout": key})
            teacher_out = said_of(batch)
            sums = [(*f({}, student_out, teacher_out, batch), weight) for weight, f in formulas]
            return {str(i): Term(total, count, weight) for i, (total, count, weight) in enumerate(sums)}, {}

        optimiser = build_optimiser(Optimiser(), 1000, {"params": student.params, "extra": {}})
        state = init_state(jax.device_put(student.params), {}, {}, optimiser)
        step = jax.jit(make_step(Objective(terms_of), optimiser, jax.random.key(0)), donate_argnums=0)

        def run() -> None:
            nonlocal state
            state, metrics = step(state, prepare(next(data)), constants)
            jax.block_until_ready((state, metrics))

        return run

    def ask(batch: Any) -> Any:
        return teacher.model.apply({"params": batch["teacher"]}, *inputs_of(batch))

    @jax.jit
    def every_row(params: Any, *inputs: Any) -> Any:
        output: Any = teacher.model.apply({"params": params}, *inputs)
        return output.logits, output.hidden_states[-1]

    with_teacher, with_stored = LEARNING
    return {
        "teacher forward": lambda: jax.block_until_ready(forward(teacher.model, held, *inputs_of(next(data)))),
        "teacher, every row": lambda: jax.block_until_ready(every_row(held, *inputs_of(next(data)))),
        "student step": step_with((HardLabels(),), lambda batch: None, dict, {}),
        "student step, every row": step_with((EveryRow(),), lambda batch: None, dict, {}),
        with_teacher: step_with(TINYBERT, ask, dict, {"teacher": held}),
        with_stored: step_with(TINYBERT, stored.output, stored.add_to, {}),
    }


if __name__ == "__main__":
    main()
