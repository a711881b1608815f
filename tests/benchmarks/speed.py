"""How fast is bertjax beside PyTorch and ONNX Runtime, on this machine, now?

    pip install -e ".[parity,export]"
    python -m tests.benchmarks.speed [--repeats=5] [--seconds=2] [--only=train]

MiniLM-L6-H384 with a classifier: one fine-tuning step, inference at four shapes, and what batches of like length save
over padding to the maximum. Each framework runs in a process of its own and they take turns, because thread pools that
share a process starve each other and because a shared machine speeds up and slows down. Milliseconds are the median
over repeats of each repeat's median; a ratio is taken within each repeat, whose median, lowest and highest are printed:
what bertjax in float32 is ahead by, and, of bfloat16, what bertjax in bfloat16 is; "x | bertjax, bfloat16" is that one
beside the fastest in float32. Where bfloat16 would be emulated it is left out. The ratios are what holds. Inference
results are compared, so that nobody is fast by computing less.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from functools import partial

from bertjax.machine.allocator import keep_freed_memory
from bertjax.machine.processor import emulates_bfloat16, processor_features, processor_name

SHAPES = [
    ("train", 32, 64),
    ("infer", 1, 32),
    ("infer", 1, 128),
    ("infer", 32, 32),
    ("infer", 32, 128),
    ("text", 32, 64),
]
SETTLE_S = 0.3
HALVES = "bertjax, bfloat16"


def serve(pipe, build: Callable) -> None:
    """The life of one process: build, then answer "how long does it take now" until told to stop."""
    keep_freed_memory()  # as the commands do; here for every framework
    import numpy as np

    run, facts = build()
    for _ in range(3):
        result = run()
    pipe.send((facts, np.asarray(result)))
    while seconds := pipe.recv():
        run()
        times: list[float] = []
        while len(times) < 3 or sum(times) < seconds:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        pipe.send(statistics.median(times))


@contextmanager
def process(build: Callable):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=serve, args=(theirs, build), daemon=True)
    child.start()
    theirs.close()
    try:
        yield ours
    finally:
        child.kill()
        child.join()


def take_turns(builders: dict[str, Callable], repeats: int, seconds: float) -> tuple[dict, dict[str, list[float]]]:
    """What each framework says of itself, facts and a first result, and its milliseconds in every repeat. A builder
    makes one in a process of its own."""
    names = list(builders)
    with ExitStack() as stack:
        pipes = {name: stack.enter_context(process(builders[name])) for name in names}
        ready = {name: pipe.recv() for name, pipe in pipes.items()}
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(repeats):
            for name in names:
                time.sleep(SETTLE_S)
                pipes[name].send(seconds)
                times[name].append(1000 * pipes[name].recv())
            names = [*names[1:], names[0]]
    return ready, times


def frameworks(kind: str) -> dict[str, Callable]:
    """Who takes part on this processor: nobody in bfloat16 where it would be emulated, for hours."""
    from tests.benchmarks.frameworks import FRAMEWORKS

    left_out = "bfloat16" if emulates_bfloat16(processor_features()) else None
    return {name: build for name, build in FRAMEWORKS[kind].items() if left_out is None or left_out not in name}


def compare(task: tuple, folder: str, repeats: int, seconds: float) -> dict[str, dict]:
    """Every framework's milliseconds, and its ratio to ours."""
    import numpy as np

    from tests.benchmarks.frameworks import Task

    builders = {name: partial(build, Task(*task), folder) for name, build in frameworks(task[0]).items()}
    ready, times = take_turns(builders, repeats, seconds)
    if task[0] == "infer":
        for name in builders:
            tolerance = 2e-2 if "bfloat16" in name else 1e-4
            np.testing.assert_allclose(ready[name][1], ready["bertjax"][1], atol=tolerance, err_msg=name)
    ours = {name: times[HALVES if "bfloat16" in name else "bertjax"] for name in times}
    ratios = {name: [theirs / our for theirs, our in zip(t, ours[name], strict=True)] for name, t in times.items()}
    if HALVES in times:
        others = [name for name in times if "bertjax" not in name and "bfloat16" not in name]
        fastest = min(others, key=lambda name: statistics.median(times[name]))
        # A row of its own: what changing both, the program and the numbers, gains.
        times[f"{fastest} | {HALVES}"] = times[fastest]
        ready[f"{fastest} | {HALVES}"] = ready[fastest]
        ratios[f"{fastest} | {HALVES}"] = [a / b for a, b in zip(times[fastest], times[HALVES], strict=True)]
    return {
        name: {"ms": statistics.median(t), "ratio": statistics.median(ratios[name]), "ratios": ratios[name], **facts}
        for (name, t), (facts, _) in zip(times.items(), ready.values(), strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="time of each framework in each repeat")
    parser.add_argument("--only", choices=("train", "infer", "text"), help="one kind of work")
    parser.add_argument("--out", help="file for the numbers as JSON")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    print(
        f"{threads} threads, {arguments.repeats} repeats; milliseconds, and bertjax's speed relative to each",
        flush=True,
    )
    if emulates_bfloat16(processor_features()):
        print(f"bfloat16 is left out: {processor_name()} has no products in it and would emulate them", flush=True)
    import bertjax

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = bertjax.load("demo", architecture="BertForSequenceClassification", labels=("rotten", "fresh"))
        bertjax.save(bundle, folder)
        for kind, batch, length in SHAPES:
            if arguments.only not in (None, kind):
                continue
            timed = compare((kind, batch, length, threads), folder, arguments.repeats, arguments.seconds)
            results[f"{kind} {batch}x{length}"] = timed
            print(f"\n{kind} {batch} x {length}", flush=True)
            for name, entry in sorted(timed.items(), key=lambda item: item[1]["ms"]):
                low, high = min(entry["ratios"]), max(entry["ratios"])
                print(f"  {name:34} {entry['ms']:9.2f}  {entry['ratio']:5.2f}x ({low:.2f} to {high:.2f})", flush=True)
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
