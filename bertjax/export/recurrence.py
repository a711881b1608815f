"""A recurrence as ONNX: the block of a Universal Transformer, once for every step (bertjax/model/recurrence.py).

The file has the weights once. Without halting it has the nodes of the block once per step: a number of steps that is
known needs no loop. With halting, the block is the body of a loop, which ends when every token of the batch has halted.
Branches inside of branches would do the same, but took more time, and only 31 fit inside of each other (graph.py).
Sinusoids become tables, as learned signals are, so the file grows by as many numbers as a table of positions has.
"""

from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from bertjax.export.graph import Axes
from bertjax.export.tokens import Rows
from bertjax.model.depth import Recurrence
from bertjax.model.recurrence import sinusoid

if TYPE_CHECKING:
    from bertjax.export.onnx import Writer


def repeated(writer: "Writer", rows: Rows) -> tuple[str, dict[str, Axes]]:
    """The state after all steps, one after the other, and no further outputs. Only the last step is followed by the
    last norm of a pre-norm model, as no other result is read."""
    graph, config, recurrence = writer.graph, writer.config, recurrence_of(writer)
    block, pre = config.depth_steps(), config.norm == "pre"
    positions = position_signals(writer)
    for number in range(recurrence.steps):
        index = graph.constant(f"index/{number}", np.int64(number))
        rows = rows._replace(hidden=with_signals(writer, rows.hidden, positions, index))
        for layer, step in enumerate(block):
            ends = layer == len(block) - 1
            first = writer.reads_first and ends and number == recurrence.steps - 1
            name = f"step_{number}/hidden" if ends and not pre else ""
            rows = writer.layer(layer, step, rows, first, name)
    name = f"step_{recurrence.steps - 1}/hidden"
    return writer.norm("encoder/last_norm", rows.hidden, name) if pre else rows.hidden, {}


def halting(writer: "Writer", rows: Rows) -> tuple[str, dict[str, Axes]]:
    """The output of all steps until every token has halted, and as a further output of the file `depth`, the number of
    steps of each text."""
    graph, config, recurrence = writer.graph, writer.config, recurrence_of(writer)
    width, read = str(config.hidden_size), "1" if writer.reads_first else "length"
    real = graph.node("Cast", graph.node("Greater", "attention_mask", graph.numbers(0)), to=1)
    total, zeros = graph.node("Sub", graph.number(1.0), real), graph.node("Mul", real, graph.number(0.0))
    # Of a head that reads the first row, no other row is summed up.
    first = writer.first(rows.hidden) if writer.reads_first else rows.hidden
    carried = {
        "state": (rows.hidden, ("batch", "length", width)),
        "output": (graph.node("Mul", first, graph.number(0.0)), ("batch", read, width)),
        "total": (total, ("batch", "length")),
        "steps": (zeros, ("batch", "length")),
    }
    step = partial(one_step, writer, rows, real, position_signals(writer))
    _, output, _, steps = graph.loop(step, recurrence.steps, unfinished(writer, total), carried)
    graph.node("Cast", graph.node("ReduceMax", steps, axes=[1], keepdims=0), to=7, name="depth")
    output = writer.norm("encoder/last_norm", output) if config.norm == "pre" else output
    return output, {"depth": ("batch",)}


def unfinished(writer: "Writer", total: str) -> str:
    """Whether any token has not halted; padding counts as halted."""
    return writer.graph.node("Less", writer.graph.node("ReduceMin", total, keepdims=0), writer.graph.number(1.0))


def one_step(writer: "Writer", rows: Rows, real: str, positions: str | None) -> list[str]:
    """The body of the loop, one step through the whole block: whether there is a next one, and state, output, total and
    steps after it."""
    graph, config, rule = writer.graph, writer.config, recurrence_of(writer).halting
    assert rule is not None
    rows = rows._replace(hidden=with_signals(writer, "state", positions, "number"))
    weight, total, steps = decide(writer, rows.hidden, real)
    for layer, step in enumerate(config.depth_steps()):
        rows = writer.layer(layer, step, rows, first=False, name="")
    state = rows.hidden
    share = graph.node("Unsqueeze", weight, graph.numbers(2))
    share, result = (writer.first(x) if writer.reads_first else x for x in (share, state))
    kept = "output"
    if rule.output == "basic":
        kept = graph.node("Mul", graph.node("Sub", graph.number(1.0), share), "output")
    output = graph.node("Add", graph.node("Mul", share, result), kept)
    if rule.halted == "frozen":
        running = graph.node("Unsqueeze", graph.node("Less", "total", graph.number(1.0)), graph.numbers(2))
        state = graph.node("Where", running, state, "state")
    return [unfinished(writer, total), state, output, total, steps]


def decide(writer: "Writer", state: str, real: str) -> tuple[str, str, str]:
    """The weight of this step's result for every token, and their halting sums and numbers of steps after it, see
    `bertjax.model.recurrence.halt`."""
    graph, recurrence = writer.graph, recurrence_of(writer)
    rule, one = recurrence.halting, graph.number(1.0)
    assert rule is not None
    logits = graph.node("Squeeze", writer.dense("halting", "encoder/halting", state), graph.numbers(2))
    probability = graph.node("Sigmoid", logits)
    if rule.scope == "example":
        counted, tokens = (
            graph.node("ReduceSum", x, graph.numbers(1)) for x in (graph.node("Mul", probability, real), real)
        )
        probability = graph.node("Div", counted, graph.node("Max", tokens, one))
    running = graph.node("Less", "total", one)
    halts = graph.node("Greater", graph.node("Add", "total", probability), graph.number(1 - rule.epsilon))
    if rule.remainder_at_end:
        last = recurrence.steps - 1
        halts = graph.node("Or", halts, graph.node("Equal", "number", graph.constant(f"index/{last}", np.int64(last))))
    share = graph.node("Where", halts, graph.node("Sub", one, "total"), probability)
    weight = graph.node("Where", running, share, graph.number(0.0))
    # A token that has halted keeps its sum of 1: its weight is 0, and halting again would change nothing.
    total = graph.node("Where", halts, one, graph.node("Add", "total", weight))
    return weight, total, graph.node("Add", "steps", graph.node("Cast", running, to=1))


def recurrence_of(writer: "Writer") -> Recurrence:
    assert writer.config.recurrence is not None
    return writer.config.recurrence


def position_signals(writer: "Writer") -> str | None:
    """The signal of each column of the batch [length, width]; None if there is none."""
    graph, most = writer.graph, writer.config.max_position_embeddings
    table = signal_table(writer, recurrence_of(writer).positions, "position_signal", most)
    return table and graph.node("Slice", table, graph.numbers(0), graph.size("input_ids", 1), graph.numbers(0))


def with_signals(writer: "Writer", state: str, positions: str | None, number: str) -> str:
    """The state plus the signals of every position and of the step with this number, a scalar of int64."""
    graph, recurrence = writer.graph, recurrence_of(writer)
    times = signal_table(writer, recurrence.times, "time_signal", recurrence.steps)
    time = times and graph.node("Gather", times, number)
    signal = graph.node("Add", positions, time) if positions and time else positions or time
    return graph.node("Add", state, signal) if signal else state


def signal_table(writer: "Writer", kind: str, name: str, rows: int) -> str | None:
    """A table of signals [rows, width]; None if there are none."""
    if kind == "none":
        return None
    if kind == "learned":
        return writer.parameter(f"encoder/{name}")
    recurrence = recurrence_of(writer)
    numbers = jnp.arange(rows, dtype=jnp.float32) + recurrence.first
    return writer.graph.constant(name, np.asarray(sinusoid(numbers, writer.config.hidden_size, recurrence.layout)))
