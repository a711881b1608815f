"""Token dropping as ONNX nodes: which tokens go on, their rows, and the way back to the whole text.

How many tokens of a text go on depends on its real length, so the file holds a table of counts for each step that drops
some; a threshold may allow fewer. TopK takes one number for the whole batch: the largest count of its texts. In the
rows of a text with a smaller count, the last ones have no token and are hidden from attention, as padding is. All sizes
afterwards are those of the batch at hand, so the arithmetic shrinks at any batch size.

The price is that a short text takes as many rows as the longest of its batch: batch texts of similar length.
"""

from typing import NamedTuple

import numpy as np

from bertjax.export.graph import Graph
from bertjax.model.retention import Retention
from bertjax.model.tokens import Tokens, lot


class Rows(NamedTuple):
    """The names of what a batch holds between two depth steps. Empty: this model does not need it."""

    hidden: str
    """[batch, rows, d]."""
    mask: str
    """The additive attention mask [batch, 1, 1, rows]."""
    real: str = ""
    """Whether each row has a token [batch, rows]."""
    lengths: str = ""
    """The real length of each text before any token was dropped [batch]."""
    places: str = ""
    """Where in the text the token of each row stands [batch, rows]; of no meaning in a row without one."""
    whole: str = ""
    """A state for every token of the text [batch, length, d]: for those that were dropped before the last step that
    dropped some, the last one that they have. Empty while nothing was dropped."""


class Choice(NamedTuple):
    """The rows that go on after a step."""

    index: str
    """Their numbers [batch, rows, 1], in their order."""
    real: str
    """Whether each has a token [batch, rows]."""


class Dropping:
    """The nodes by which a model with this retention drops tokens. `positions` is the length of the longest text."""

    def __init__(self, graph: Graph, retention: Retention, positions: int, restores: bool):
        self.graph, self.retention, self.positions = graph, retention, positions
        self.steps = retention.steps
        self.restores = restores
        """Whether the head reads a state of every token."""

    def begin(self, rows: Rows) -> Rows:
        """The rows before the first step, when every token has one."""
        graph = self.graph
        real = graph.node("Greater", "attention_mask", graph.numbers(0))
        lengths = graph.node("ReduceSum", graph.node("Cast", real, to=7), graph.numbers(1), keepdims=0)
        places = ""
        if self.restores or self.retention.ranked_by == "random":
            numbers = graph.columns("positions", np.arange(self.positions), graph.size("input_ids", 1))
            places = graph.node("Expand", numbers, graph.node("Shape", "input_ids"))
        return rows._replace(real=real, lengths=lengths, places=places)

    def choice(self, step: int, probabilities: str, rows: Rows) -> Choice:
        """The rows that go on: [CLS], then by significance, of equal ones the earlier first; in their old order."""
        graph, before = self.graph, self.graph.size(rows.real, 1)
        last = graph.constant("number/-inf", np.float32(-np.inf))
        real = graph.node("Where", rows.real, self.significance(probabilities, rows), last)
        first = np.where(np.arange(self.positions) == 0, np.inf, -np.inf).astype(np.float32)
        ranked = graph.node("Max", real, graph.columns("first", first, before))
        counts = self.counts(step, ranked, rows)
        # At least one row, also in a batch without a single token: no runtime can be trusted with products of none.
        most = graph.node("Max", graph.node("ReduceMax", counts, axes=[0], keepdims=1), graph.numbers(1))
        _, order = graph.pair("TopK", ranked, most)
        ranks = graph.columns("positions", np.arange(self.positions), most)
        kept = graph.node("Less", ranks, graph.node("Unsqueeze", counts, graph.numbers(1)))
        chosen, _ = graph.pair("TopK", graph.node("Where", kept, order, before), most, largest=0)
        inside = graph.node("Min", chosen, graph.node("Sub", before, graph.numbers(1)))
        index = graph.node("Unsqueeze", inside, graph.numbers(2))
        return Choice(index, graph.node("Less", chosen, before))

    def counts(self, step: int, ranked: str, rows: Rows) -> str:
        """The number of tokens of each text that go on [batch]."""
        graph, threshold = self.graph, self.retention.threshold(step)
        table = graph.constant(f"counts/{step}", np.array(self.retention.counts(step, self.positions), np.int64))
        counts = graph.node("Gather", table, rows.lengths)
        if not threshold:
            return counts
        queries = graph.node("ReduceSum", graph.node("Cast", rows.real, to=1), graph.numbers(1), keepdims=1)
        asked = graph.node("Mul", queries, graph.number(threshold))
        over = graph.node("Cast", graph.node("GreaterOrEqual", ranked, asked), to=7)
        return graph.node("Min", counts, graph.node("ReduceSum", over, graph.numbers(1), keepdims=0))

    def significance(self, probabilities: str, rows: Rows) -> str:
        """What tokens are ranked by [batch or 1, rows], see `bertjax.model.tokens`."""
        graph, by = self.graph, self.retention.ranked_by
        if by == "first":
            return graph.columns("earliness", -np.arange(self.positions, dtype=np.float32), graph.size(rows.real, 1))
        if by == "random":
            drawn = graph.node("Gather", graph.constant("lot", self.lots()), rows.lengths)
            places = graph.node("Unsqueeze", rows.places, graph.numbers(2))
            return graph.node("GatherND", drawn, places, batch_dims=1)
        votes = graph.node("Unsqueeze", graph.node("Cast", rows.real, to=1), graph.numbers(1, 2))
        received = graph.node("ReduceMean", graph.node("MatMul", votes, probabilities), axes=[1, 2], keepdims=0)
        if by == "all":
            return received
        # The diagonal of a square array in one row is every (rows + 1)-th of its numbers.
        flat = graph.node("Reshape", probabilities, graph.numbers(0, 0, -1))
        stride = graph.node("Add", graph.size(rows.real, 1), graph.numbers(1))
        ends = graph.numbers(0), graph.numbers(np.iinfo(np.int64).max), graph.numbers(2)
        own = graph.node("ReduceMean", graph.node("Slice", flat, *ends, stride), axes=[1], keepdims=0)
        return graph.node("Sub", received, own)

    def lots(self) -> np.ndarray:
        """The random numbers of the places of a text of every length [lengths, places]."""
        places = np.arange(self.positions)
        text = places < np.arange(self.positions + 1)[:, None]
        return np.asarray(lot(Tokens(text, np.broadcast_to(places, text.shape))))  # type: ignore[arg-type]

    def gathered(self, x: str, choice: Choice, name: str = "") -> str:
        """The rows of `x` that go on."""
        return self.graph.node("GatherND", x, choice.index, name=name, batch_dims=1)

    def after(self, rows: Rows, choice: Choice, hidden: str) -> Rows:
        """The rows after a step that drops some; `rows` are those before it, and `hidden` their new state."""
        graph = self.graph
        wide = graph.node("Cast", graph.node("Unsqueeze", choice.real, graph.numbers(1, 2)), to=1)
        missing = graph.node("Sub", graph.number(1.0), wide)
        mask = graph.node("Mul", missing, graph.number(float(np.finfo(np.float32).min)))
        places = self.gathered(rows.places, choice) if rows.places else ""
        return Rows(hidden, mask, choice.real, rows.lengths, places, self.restored(rows) if self.restores else "")

    def restored(self, rows: Rows) -> str:
        """A state for every token of the text: that of the last depth step it took part in."""
        graph = self.graph
        if not rows.whole:
            return rows.hidden
        # Only rows with a token are written: where ScatterND writes one place twice, the result is not defined.
        where = graph.node("Transpose", graph.node("NonZero", rows.real), perm=[1, 0])
        texts = graph.node("Slice", where, *map(graph.numbers, (0, 1, 1)))
        places = graph.node("Unsqueeze", graph.node("GatherND", rows.places, where), graph.numbers(1))
        states = graph.node("GatherND", rows.hidden, where)
        return graph.node("ScatterND", rows.whole, graph.node("Concat", texts, places, axis=1), states)
