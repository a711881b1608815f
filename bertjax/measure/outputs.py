"""Logits of models, each computed in the runtime and from the folder that ships, one process after the other."""

from collections.abc import Callable, Mapping

import numpy as np

from bertjax.measure.processes import Candidate, Process, ask, load_requests, processors
from bertjax.text.encode import Encoded
from bertjax.text.examples import Examples


def measure_outputs(
    candidates: Mapping[str, Candidate],
    examples: Examples,
    encoded: Mapping[str, Encoded],
    *,
    max_length: int = 512,
    threads: int | None = None,
    timeout_s: float = 3600.0,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, list[np.ndarray]]:
    """The logits of every candidate for every row of the examples, in their order. `encoded` has each candidate's own
    encoding of the examples, truncated at `max_length`. Arrays are [tokens, ...] for models that predict per token.

    Raises:
      UserError: A candidate cannot be loaded.
      RuntimeError: As in `measure_latency`.
    """
    results = {}
    for name, request in load_requests(candidates, examples.texts, examples.pairs, max_length).items():
        notify(f"{name} predicts {len(examples)} texts")
        rows = encoded[name]
        tokens = {key: _rows(rows, flat) for key, flat in (("ids", rows.ids), ("type_ids", rows.type_ids))}
        with processors(threads), Process(name, timeout_s) as process:
            ask({name: process}, {name: request})
            outputs = ask({name: process}, {name: {"command": "outputs", **tokens}})[name]["outputs"]
        results[name] = [np.array(row) for row in outputs]
    return results


def _rows(encoded: Encoded, flat: np.ndarray) -> list[list[int]]:
    return [row.tolist() for row in np.split(flat, encoded.offsets[1:-1])]
