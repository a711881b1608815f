"""One runtime in a process of its own: `python -m bertjax.measure.worker`, one JSON object per line in and out.

    {"command": "load", "runtime": "jax", "path": "runs/x/bundle", "texts": [...], "pairs": null, "max_length": 128}
    {"command": "warm_up"}
    {"command": "measure"}
    {"command": "outputs", "ids": [[101, 2023, 102], ...], "type_ids": [[0, 0, 0], ...]}
    {"command": "first"}
    {"command": "singly"}
    {"command": "quit"}

Inside one process the thread pools of XLA, torch and ONNX Runtime compete, so each runtime gets a process and they take
turns.

A runtime is a class with the constructor arguments (path, texts, pairs, max_length). It has `name`, `device`,
`versions`, and two methods: `encode` (texts to the arrays of one batch) and `forward`, which returns when the result is
there. The command `outputs` needs a third, `pad` (token ids to these arrays). "jax", "onnxruntime", "openvino" and
"sklearn" are defined below; any other class is given as `package.module:Class`. The constructor gets the texts so that
a runtime with static shapes can choose its lengths. A process imports only what its own runtime needs.
"""

import gc
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from bertjax.errors import UserError
from bertjax.machine.allocator import keep_freed_memory
from bertjax.machine.processor import processor_name, thread_count
from bertjax.measure.onnx import answer, longest_input, open_session
from bertjax.measure.runtimes import BUNDLE_RUNTIMES, FILE_RUNTIMES, FileRuntime

BATCH = 32


class Runtime(Protocol):
    """What is timed. `forward(encode(texts, pairs))` is everything between texts and result."""

    name: str
    device: str
    versions: dict[str, str]

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Any:
        """The model's input for one batch: tokenisation and padding."""
        ...

    def forward(self, inputs: Any) -> Any:
        """The model's output, in main memory when this returns."""
        ...


class JaxRuntime:
    """A bundle, with its logits compiled for a few lengths as in `bundle.predict`. Products are computed in `dtype`."""

    def __init__(
        self, path: str, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int, dtype: str = "float32"
    ):
        import flax
        import jax
        import numpy as np

        import bertjax
        from bertjax.predict import runner
        from bertjax.text.buckets import length_buckets

        self.name = "jax" if dtype == "float32" else f"jax, {dtype}"
        self.bundle = bertjax.load(path, dtype=dtype)
        self.run = runner(self.bundle.model, self.bundle.device_params)
        self.max_length = min(max_length, self.bundle.config.max_tokens)
        lengths = np.array([len(ids) for ids in self._tokenize(texts, pairs).ids])
        self.buckets = length_buckets(lengths, self.max_length)
        first = jax.devices()[0]
        self.device = f"{first.platform}: {processor_name() if first.platform == 'cpu' else first.device_kind}"
        self.versions = {"jax": jax.__version__, "flax": flax.__version__, "bertjax": bertjax.__version__}

    def _tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None):
        if self.bundle.tokenizer is None:
            raise UserError("this bundle has no tokenizer, so its time on texts cannot be measured.")
        return self.bundle.tokenizer.encode(texts, pairs, self.max_length, spans=False)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Any:
        encodings = self._tokenize(texts, pairs)
        return self.pad(encodings.ids, encodings.type_ids)

    def pad(self, ids: Sequence[Sequence[int]], type_ids: Sequence[Sequence[int]]) -> Any:
        import numpy as np

        longest = max(map(len, ids))
        length = next(edge for edge in self.buckets if edge >= longest)
        return padded(ids, type_ids, length, self.bundle.tokenizer.pad_id, np.int32)  # type: ignore[union-attr]

    def forward(self, inputs: Any) -> Any:
        return next(self.run([inputs])).logits


class OnnxFile:
    """A folder with an ONNX file, its tokenizer and `config.json`, in one of the runtimes of such a file on the CPU."""

    def __init__(
        self,
        path: str,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        max_length: int,
        runtime: FileRuntime = "onnxruntime",
    ):
        from bertjax.text.tokenizer import Tokenizer

        del texts, pairs  # its shapes are dynamic
        self.name = runtime
        self.session = open_session(path, threads=thread_count(), runtime=runtime)
        self.tokenizer = Tokenizer.from_folder(path)
        self.max_length = min(max_length, longest_input(path))
        self.device = f"cpu: {processor_name()}"
        self.versions = {runtime: importlib.import_module(runtime).__version__.partition("-")[0]}

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Any:
        encodings = self.tokenizer.encode(texts, pairs, self.max_length, spans=False)
        return self.pad(encodings.ids, encodings.type_ids)

    def pad(self, ids: Sequence[Sequence[int]], type_ids: Sequence[Sequence[int]]) -> Any:
        import numpy as np

        return padded(ids, type_ids, max(map(len, ids)), self.tokenizer.pad_id, np.int64)

    def forward(self, inputs: Any) -> Any:
        return answer(self.session, *inputs).output


class SklearnRuntime:
    """The bag of words. Its input is the text itself, because counting and weighting the words is its computation."""

    name = "sklearn"

    def __init__(self, path: str, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int):
        import sklearn

        from bertjax.baselines.bag_of_words import load_bag_of_words

        del texts, pairs, max_length  # it has no length limit
        self.model = load_bag_of_words(path)
        self.device = f"cpu: {processor_name()}"
        self.versions = {"scikit-learn": sklearn.__version__}

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Any:
        return texts, pairs

    def forward(self, inputs: Any) -> Any:
        return self.model.predict(*inputs)


RUNTIMES: dict[str, Callable[..., Runtime]] = {
    **{name: partial(JaxRuntime, dtype=dtype) for name, dtype in BUNDLE_RUNTIMES.items()},
    **{runtime: partial(OnnxFile, runtime=runtime) for runtime in FILE_RUNTIMES},
    "sklearn": SklearnRuntime,
}


def padded(
    ids: Sequence[Sequence[int]], type_ids: Sequence[Sequence[int]], length: int, pad_id: int, dtype: Any
) -> tuple[Any, Any, Any]:
    """Ids, mask and types of one batch, padded to `length` on the right."""
    import numpy as np

    shape = (len(ids), length)
    filled, mask, types = np.full(shape, pad_id, dtype), np.zeros(shape, dtype), np.zeros(shape, dtype)
    for row, (tokens, kinds) in enumerate(zip(ids, type_ids, strict=True)):
        filled[row, : len(tokens)], types[row, : len(tokens)], mask[row, : len(tokens)] = tokens, kinds, 1
    return filled, mask, types


class Session:
    """Executes the commands. `measure` and `outputs` need `load` first."""

    def __init__(self):
        self._left = time.process_time(), time.perf_counter()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request. `idle_share` is the share of a processor that was used while waiting for the
        request."""
        cpu, wall = time.process_time() - self._left[0], time.perf_counter() - self._left[1]
        reply = getattr(self, request.pop("command"))(**request)
        self._left = time.process_time(), time.perf_counter()
        return reply | {"idle_share": cpu / wall}

    def load(
        self, runtime: str, path: str, texts: list[str], pairs: list[str] | None, max_length: int
    ) -> dict[str, Any]:
        start = time.perf_counter()
        self.runtime: Runtime = find_runtime(runtime)(path, texts, pairs, max_length)
        load_ms = 1000 * (time.perf_counter() - start)
        self.texts, self.pairs = texts, pairs
        versions = {"python": platform.python_version(), **self.runtime.versions}
        about = {"runtime": self.runtime.name, "device": self.runtime.device, "load_ms": load_ms}
        return about | {"threads": thread_count(), "versions": versions}

    def warm_up(self) -> dict[str, Any]:
        """Runs everything that will be timed once: compiles every shape, fills every cache."""
        self.measure()
        return {}

    def measure(self) -> dict[str, Any]:
        """Milliseconds per text, by text, at batch 1, from arrays and from strings; texts per second at batch 32."""
        encode, forward = self.runtime.encode, self.runtime.forward
        single = [self._batch([i]) for i in range(len(self.texts))]
        encoded, many = [encode(*batch) for batch in single], [encode(*batch) for batch in self._many()]
        for inputs in encoded[:5]:
            forward(inputs)
        gc.collect()
        gc.disable()
        try:
            batch_1 = [milliseconds(forward, inputs) for inputs in encoded]
            end_to_end = [milliseconds(lambda batch: forward(encode(*batch)), batch) for batch in single]
            batch_32 = [milliseconds(forward, inputs) for inputs in many]
        finally:
            gc.enable()
        return {
            "batch_1": batch_1,
            "end_to_end": end_to_end,
            "batch_32_per_s": 1000 * BATCH * len(many) / sum(batch_32),
        }

    def first(self) -> dict[str, Any]:
        """Predicts one text: the end of a cold start."""
        self.runtime.forward(self.runtime.encode(*self._batch([0])))
        return {}

    def singly(self) -> dict[str, Any]:
        """Milliseconds per text, by text, from arrays (the second of two calls), and the peak resident bytes
        of this process."""
        encoded = [self.runtime.encode(*self._batch([i])) for i in range(len(self.texts))]
        for inputs in encoded:
            self.runtime.forward(inputs)
        batch_1 = [milliseconds(self.runtime.forward, inputs) for inputs in encoded]
        return {"batch_1": batch_1, "peak_bytes": peak_resident_bytes()}

    def outputs(self, ids: list[list[int]], type_ids: list[list[int]]) -> dict[str, Any]:
        """The logits of every row of token ids, in order, as lists: numbers, or a list of numbers per token."""
        rows: list[Any] = [None] * len(ids)
        runtime: Any = self.runtime  # one that takes token ids
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), BATCH):
            numbers = order[start : start + BATCH]
            inputs = runtime.pad([ids[i] for i in numbers], [type_ids[i] for i in numbers])
            for number, row in zip(numbers, runtime.forward(inputs), strict=True):
                rows[number] = (row[: len(ids[number])] if row.ndim > 1 else row).tolist()
        return {"outputs": rows}

    def _many(self) -> list[tuple[list[str], list[str] | None]]:
        """Full batches of texts of similar length, as in `bundle.predict`. Too few texts are repeated to fill a
        batch."""
        order = sorted(range(len(self.texts)), key=lambda i: len(self.texts[i]))
        order *= -(-BATCH // len(order))
        return [self._batch(order[start : start + BATCH]) for start in range(0, len(order) - BATCH + 1, BATCH)]

    def _batch(self, rows: Sequence[int]) -> tuple[list[str], list[str] | None]:
        pairs = self.pairs
        return [self.texts[i] for i in rows], None if pairs is None else [pairs[i] for i in rows]


def milliseconds(call: Callable[[Any], Any], argument: Any) -> float:
    """Wall time of one call."""
    start = time.perf_counter_ns()
    call(argument)
    return (time.perf_counter_ns() - start) / 1e6


def find_runtime(name: str) -> Any:
    """The class for a name in `RUNTIMES` or for `package.module:Class`."""
    if name in RUNTIMES:
        return RUNTIMES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(f"Unknown runtime {name!r}: expected {', '.join(RUNTIMES)} or package.module:Class.")
    return getattr(importlib.import_module(module), attribute)


def peak_resident_bytes() -> int:
    """The largest main memory that this process has held.

    Linux's `ru_maxrss` starts with the memory that the parent held before exec, so `VmHWM` is read there instead.
    """
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="ascii") as lines:
            return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def main() -> None:
    """Serves requests until `quit` or the end of the input. What libraries print goes to stderr, so that it does not
    mix with the replies."""
    keep_freed_memory()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        session = Session()
        for line in sys.stdin:
            request = json.loads(line)
            if request["command"] == "quit":
                break
            try:
                reply = session.answer(request)
            except UserError as error:
                reply = {"user_error": str(error)}
            answers.write(json.dumps(reply) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
