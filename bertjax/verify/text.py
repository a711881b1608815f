"""A comparison and its verdict as lines of text."""

from collections.abc import Iterator, Sequence

from bertjax.metrics.scores import RIGHT_OR_WRONG
from bertjax.report.number_text import bytes_text, metric_name, p_equals
from bertjax.report.table import Table
from bertjax.verify.measured import Failure, Measured, Side


def lines(measured: Measured, failures: Sequence[Failure]) -> Iterator[str]:
    """The table, further observations, and the verdict."""
    old, new = measured.old, measured.new
    yield f"{measured.texts} texts, {new.timing.device}, {new.timing.threads} thread(s)"
    yield f"OLD: {old.folder} ({_runtime(old)})"
    yield f"NEW: {new.folder} ({_runtime(new)})"
    yield ""
    yield from side_by_side(measured).text().splitlines()
    yield ""
    yield from notes(measured)
    if not failures:
        yield "accepted: every given bound is met, and no claim of NEW is contradicted"
    for failure in failures:
        yield f"refused: {failure.what}"
        yield from (f"  likely cause: {cause}" for cause in failure.causes)


def side_by_side(measured: Measured) -> Table:
    """The measurements of OLD and NEW, and the change."""
    old, new = measured.old, measured.new
    times, before = new.timing.latency.batch_1, old.timing.latency.batch_1
    low, high = measured.difference
    slowest, fastest = measured.speed_up_range
    test = "McNemar's exact test" if measured.metric in RIGHT_OR_WRONG else "permutation test"
    change = f"{measured.change:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f}), {p_equals(measured.p_value)}"
    faster = f"{measured.speed_up:.2f} times as fast ({slowest:.2f} to {fastest:.2f} over the repeats)"
    per_second, before_per_second = new.timing.throughput_per_s, old.timing.throughput_per_s
    rows = (
        (metric_name(measured.metric), _score(old), _score(new), f"{change}, {test}"),
        ("ms, one text, p50", f"{before.p50:.3g}", f"{times.p50:.3g}", faster),
        ("ms, one text, p95", f"{before.p95:.3g}", f"{times.p95:.3g}", f"{before.p95 / times.p95:.2f} times as fast"),
        (
            "texts/s, batches of 32",
            f"{before_per_second:.4g}",
            f"{per_second:.4g}",
            f"{measured.throughput_ratio:.2f} times as many",
        ),
        ("bytes on disk", bytes_text(old.bytes), bytes_text(new.bytes), f"1/{old.bytes / new.bytes:.2f} of OLD's"),
        ("zeros in the weights", f"{old.weights.zeros:.1%}", f"{new.weights.zeros:.1%}", ""),
        ("truncated texts", str(old.truncated), str(new.truncated), ""),
    )
    return Table(("measured", "OLD", "NEW", "change"), rows, left=("measured", "change"))


def notes(measured: Measured) -> Iterator[str]:
    """Observations that are not numbers of one model."""
    yield from measured.runtimes
    if measured.old.answers == 1 and measured.labels != 1:
        yield "OLD predicts the same for every text, so that a score as high as OLD's proves nothing"
    if claims := measured.new.claims:
        yield f"NEW's own claims: {', '.join(f'{claim.what} ({claim.file})' for claim in claims)}"
    if measured.no_parity:
        yield f"{measured.no_parity}: NEW was not compared with its bundle (name it with --parity=BUNDLE)"
    if measured.agreement is not None:
        yield f"OLD and NEW predict the same for {measured.agreement:.2%} of the texts"
    yield from behaviour(measured)
    if (other := measured.in_other) is not None:
        alike = "" if other.agreement is None else f"; the same predictions for {other.agreement:.2%} of the texts"
        yield f"NEW in onnxruntime: logits differ from those in openvino by at most {other.largest:.3g}{alike}"
    if (parity := measured.parity) is not None:
        alike = "" if parity.agreement is None else f"; the same predictions for {parity.agreement:.2%} of the texts"
        yield f"NEW and {parity.bundle} in JAX: logits differ by at most {parity.largest:.3g}{alike}"


def behaviour(measured: Measured) -> Iterator[str]:
    """What of NEW depends on the text, and on its batch."""
    if measured.by_length:
        each = ", ".join(f"{t.tokens}: {t.old_ms:.3g} -> {t.new_ms:.3g} ({t.texts})" for t in measured.by_length)
        yield f"ms by length, OLD -> NEW, up to so many tokens (texts): {each}"
    if (found := measured.behaviour) is None:
        return
    yield (
        f"NEW alone and in batches, {found.rows} texts: {found.changed} with another answer or depth; of the others, "
        f"logits differ by at most {found.largest:.2g}"
    )
    if depths := found.depths:
        yield f"NEW takes {sum(depths) / len(depths):.2f} layers on average, from {min(depths)} to {max(depths)}"
    if found.tokens:
        tokens = ", ".join(f"{count:.1f} after layer {step}" for step, count in found.tokens)
        yield f"tokens that go on in NEW, on average: {tokens}"
    if worst := found.worst:
        yield (
            f"NEW's worst case, {worst.tokens} tokens through all {worst.depth} layers: {worst.ms:.3g} ms, "
            f"{worst.usual_ms:.3g} ms with its own threshold"
        )


def _score(side: Side) -> str:
    low, high = side.interval
    return f"{100 * side.score:.2f} ({100 * low:.1f}..{100 * high:.1f})"


def _runtime(side: Side) -> str:
    name = side.timing.runtime
    return f"{name} {side.timing.versions.get(name, '')}".strip()
