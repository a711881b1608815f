"""What models say to texts, each in the runtime and from the folder that ships, one process after the other."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from bertjax.errors import UserError
from bertjax.measure.processes import Candidate, Process, ask, load_requests, processors


def measure_outputs(
    candidates: Mapping[str, Candidate],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int = 512,
    threads: int | None = None,
    timeout_s: float = 3600.0,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Float[np.ndarray, "n c"]]:
    """The logits of every candidate for every text, in the order of the texts.

    Raises:
      UserError: A candidate cannot be loaded, or answers in another form than one row of numbers per text.
      RuntimeError: As in `measure_latency`.
    """
    found = {}
    for name, request in load_requests(candidates, texts, pairs, max_length).items():
        notify(f"{name} answers {len(texts)} texts")
        with processors(threads), Process(name, timeout_s) as process:
            ask({name: process}, {name: request})
            logits = np.array(ask({name: process}, {name: {"command": "outputs"}})[name]["outputs"])
        if logits.ndim != 2:
            raise UserError(f"{name} answers with arrays of shape {list(logits.shape)}: expected [texts, labels].")
        found[name] = logits
    return found
