"""What a file does that depends on the text, or on its batch: depth, tokens that go on, answers beside other texts.

An average hides what a service has to bear: a text that never exits, a batch that changes an answer. All of it is
measured on the file, in the runtime that was asked for, on a sample of the rows; only the sizes of the file's own
arrays are read in ONNX Runtime. Where the model's two most likely answers, or a confidence and its threshold, are equal
within rounding, the batch may decide between them; such rows are counted.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.measure.latency import SAMPLE, Timing
from bertjax.measure.onnx import INPUTS, Answer, answer, existing_file, new_session, open_session
from bertjax.measure.processes import chosen
from bertjax.measure.runtimes import FileRuntime
from bertjax.measure.worker import BATCH, padded
from bertjax.model.retention import Retention
from bertjax.storage.typed_json import build
from bertjax.text.encode import Encoded
from bertjax.verify.folder import config_of
from bertjax.verify.measured import Behaviour, LengthTimes, WorstCase

Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Ids, mask and types [rows, tokens]."""
CALLS = 5
"""How often the worst case is timed."""
NEVER = 1e9
"""A threshold that no text reaches: this, or its negative where texts exit below it."""


def behaviour_of(folder: Path, rows: Encoded, threads: int, runtime: FileRuntime = "onnxruntime") -> Behaviour:
    """The behaviour of a folder's file on a sample of the rows. OpenVINO has no input for another threshold, so there
    is no worst case."""
    session = open_session(folder, threads, runtime=runtime)
    run, numbers = partial(answer, session), chosen(len(rows), SAMPLE)
    alone = [run(*batch_of(rows, [number])) for number in numbers]
    starts = range(0, len(numbers), BATCH)
    beside = [one for start in starts for one in each(run, rows, numbers[start : start + BATCH])]
    kind, lengths = rows.task.kind, rows.lengths[numbers]
    changed, differences = 0, [0.0]
    for one, other, length in zip(alone, beside, lengths, strict=True):
        a, b = (x.output[0][:length] if x.output.ndim > 2 else x.output[0] for x in (one, other))
        same_depth = one.depths is None or other.depths is None or one.depths[0] == other.depths[0]
        if same_depth and np.array_equal(decisions(kind, a), decisions(kind, b)):
            differences.append(float(np.abs(a - b).max()))
        else:
            changed += 1
    longest = batch_of(rows, [numbers[int(lengths.argmax())]])
    return Behaviour(
        rows=len(numbers),
        changed=changed,
        largest=max(differences),
        depths=tuple(int(one.depths[0]) for one in alone if one.depths is not None),
        tokens=tokens_after(folder, [batch_of(rows, [number]) for number in numbers]),
        worst=worst_case(session, longest) if runtime == "onnxruntime" else None,
    )


def batch_of(rows: Encoded, numbers: Sequence[int]) -> Inputs:
    """Ids, mask and types of these rows, padded to the longest of them."""
    slices = [slice(rows.offsets[n], rows.offsets[n + 1]) for n in numbers]
    ids, types = ([flat[one].tolist() for one in slices] for flat in (rows.ids, rows.type_ids))
    return padded(ids, types, max(map(len, ids)), rows.pad_id, np.int64)


def each(run: Callable[..., Answer], rows: Encoded, numbers: Sequence[int]) -> list[Answer]:
    """The answer of each row of one batch."""
    output, depths = run(*batch_of(rows, numbers))
    return [Answer(output[n : n + 1], depths if depths is None else depths[n : n + 1]) for n in range(len(numbers))]


def decisions(kind: str, logits: np.ndarray) -> np.ndarray:
    """What is made of the logits of a row: a class, a tag for each token, the ends of an answer; of a number or an
    embedding nothing, because it is compared by its distance."""
    if kind in ("regression", "embedding"):
        return np.zeros(0)
    if kind == "multi_label":
        return logits > 0
    return np.asarray(logits.argmax(axis=0 if kind == "qa" else -1))


def tokens_after(folder: Path, batches: Sequence[Inputs]) -> tuple[tuple[int, float], ...]:
    """For each layer that drops tokens, its number and the mean number of tokens that go on after it. Read from the
    sizes of the file's own arrays; those inside of branches, after an exit, are left out."""
    stored = config_of(folder).get("retention")
    if not stored:
        return ()
    import onnx

    model = onnx.load(existing_file(folder))
    computed = {name for node in model.graph.node for name in node.output}
    steps = [step for step in build(Retention, stored, "retention").steps if f"step_{step}/hidden" in computed]
    names = [f"step_{step}/hidden" for step in steps]
    if not names:
        return ()
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = new_session(model.SerializeToString())
    needed = [INPUTS.index(one.name) for one in session.get_inputs()]
    found = [session.run(names, {INPUTS[n]: batch[n] for n in needed}) for batch in batches]
    means = np.mean([[array.shape[1] for array in one] for one in found], axis=0)
    return tuple(zip(steps, means.tolist(), strict=True))


def worst_case(session: Any, longest: Inputs) -> WorstCase | None:
    """The longest text as it is and if it exits nowhere; None for a file without a threshold."""
    if not session.get_overridable_initializers():
        return None
    feeds = {one.name: longest[INPUTS.index(one.name)] for one in session.get_inputs()}

    def timed(threshold: float | None) -> tuple[int, float]:
        given = feeds if threshold is None else feeds | {"threshold": np.array(threshold, np.float32)}
        (depth,) = session.run(["depth"], given)
        taken = []
        for _ in range(CALLS):
            start = time.perf_counter()
            session.run(None, given)
            taken.append(1000 * (time.perf_counter() - start))
        return int(depth[0]), float(np.median(taken))

    depth, slowest = max(timed(-NEVER), timed(NEVER))
    return WorstCase(longest[0].shape[1], depth, slowest, timed(None)[1])


def times_by_length(rows: Encoded, examples: int, old: Timing, new: Timing) -> tuple[LengthTimes, ...]:
    """The times of the timed texts, by their length in tokens up to powers of two."""
    if not (old.milliseconds and new.milliseconds):
        return ()
    first = np.searchsorted(rows.example, np.arange(examples))  # of an example's windows, the one that is timed
    lengths = rows.lengths[first][chosen(examples, SAMPLE)]
    edges = 2 ** np.ceil(np.log2(lengths)).astype(int)
    found = []
    for edge in np.unique(edges):
        inside = edges == edge
        before, after = (float(np.median(np.array(one.milliseconds)[inside])) for one in (old, new))
        found.append(LengthTimes(int(edge), int(inside.sum()), before, after))
    return tuple(found)
