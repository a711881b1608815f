"""From measured numbers to a verdict: which bounds are not met, which claims are not true, and the likely causes.

A cause is named only if something that was measured or read supports it; otherwise none is named.
"""

import math
from collections.abc import Iterator

from bertjax.machine import processor
from bertjax.measure.onnx import INTEGER_PRODUCTS
from bertjax.report.number_text import bytes_text
from bertjax.verify.measured import Bounds, Claim, Failure, Measured, Side, exceeds

SMALL_MS = 1.0
"""Calls that take less time may be mostly overhead of the runtime."""
FAITHFUL = 0.999
"""Share of equal predictions above which a lower score is not the export's fault."""
FAR = 0.1
"""The largest difference of an export's logits from its bundle's, as a share of their size. Another order of summation,
other rounding and other processors stay far below it."""
CHANGED = 0.05
"""Share of the texts for which the batch may decide between two answers that are equal within rounding."""
MANY_ZEROS = MANY_WIDENED = 0.2
SPEED_UP_SLACK = 1.25
"""A claimed speed-up is refused if it exceeds the best repeat's by this factor, because machines differ."""
PRODUCTS = (INTEGER_PRODUCTS, ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Attention", "MultiHeadAttention"))
"""Operators that multiply matrices: of integers, and of floats."""
ATTENTION = ("Attention", "MultiHeadAttention", "QAttention", "PackedAttention", "GroupQueryAttention")
LAYER_NORM = ("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization", "QEmbedLayerNormalization")


def verdict(measured: Measured, bounds: Bounds) -> list[Failure]:
    """Everything that is wrong with NEW; empty if all bounds are met and no claim is contradicted."""
    failures = []
    if bounds.max_drop is not None and exceeds(-measured.change, bounds.max_drop):
        moved = "rose" if measured.change > 0 else "fell"
        allowed = bounds.max_drop
        bound = f"a loss of at most {allowed:g}" if allowed >= 0 else f"a gain of at least {-allowed:g}"
        what = f"the score {moved} by {abs(measured.change):.2f} points; the bound is {bound}"
        failures.append(Failure(what, tuple(why_worse(measured, bounds.max_drop))))
    if bounds.min_speedup is not None and not measured.speed_up >= bounds.min_speedup:
        what = (
            f"NEW is {measured.speed_up:.2f} times as fast as OLD; the bound is at least {bounds.min_speedup:g} times"
        )
        failures.append(Failure(what, tuple(why_slow(measured, bounds.min_speedup))))
    if bounds.max_mb is not None and measured.new.bytes > bounds.max_mb * 1e6:
        what = f"NEW takes {measured.new.bytes / 1e6:.2f} MB; the bound is at most {bounds.max_mb:g} MB"
        failures.append(Failure(what, (f"where the bytes are: {measured.new.weights.makeup}",)))
    agreement, asked = measured.agreement, bounds.min_agreement
    if asked is not None and agreement is not None and not 100 * agreement >= asked - 1e-9:
        what = f"NEW predicts the same as OLD for {agreement:.2%} of the texts; the bound is at least {asked:g} %"
        failures.append(Failure(what, tuple(why_worse(measured, 0.0))))
    if (seen := measured.behaviour) is not None and seen.changed > CHANGED * seen.rows:
        what = f"NEW answers {seen.changed} of {seen.rows} texts differently alone and beside other texts"
        failures.append(Failure(what, ("its padding takes part in the answer, or one text's numbers in another's",)))
    if not measured.new.finite:
        failures.append(Failure("some of NEW's logits are NaN or infinite"))
    if (parity := measured.parity) is not None and not parity.distance <= FAR:
        difference = f"they differ by {parity.distance:.2g} times their size"
        why = (wrong_products(measured.new),) if measured.new.inexact else ()
        failures.append(Failure(f"NEW's logits are not those of {parity.bundle} in JAX: {difference}", why))
    return failures + [
        Failure(mismatch) for claim in measured.new.claims if (mismatch := contradiction(claim, measured))
    ]


def why_worse(measured: Measured, allowed: float) -> Iterator[str]:
    """Likely causes of a lower score."""
    new, parity = measured.new, measured.parity
    if measured.renamed is not None:
        yield (
            f"NEW predicts the same as OLD for {measured.renamed:.1%} of the texts if its classes are renamed, and for "
            f"{measured.agreement:.1%} with their present names: outputs or `id2label` are in another order"
        )
    if new.answers == 1 and measured.labels != 1:
        yield "NEW predicts the same for every text: it has lost what it had learnt"
    if measured.same_tokens < 1:
        yield f"NEW's tokenizer gives other ids than OLD's for {1 - measured.same_tokens:.1%} of the texts"
    if new.truncated > measured.old.truncated:
        yield f"NEW truncates {new.truncated} texts and OLD {measured.old.truncated}"
    if new.finite and parity is not None and parity.agreement is not None:
        if parity.agreement >= FAITHFUL:
            yield f"{parity.bundle} in JAX predicts the same as NEW: the score was lost before the export"
        else:
            yield (
                f"{parity.bundle} in JAX predicts differently for {1 - parity.agreement:.1%} of the texts (logits "
                f"differ by up to {parity.largest:.3g}): the score was lost in the export or its quantisation"
            )
    if new.inexact:
        yield wrong_products(new)
    if 100 * measured.difference[1] > -allowed:
        most = f"{100 * measured.difference[1]:+.2f} points"
        yield f"{measured.texts} texts are too few to be certain: the 95 % interval of the change reaches up to {most}"


def why_slow(measured: Measured, wanted: float) -> Iterator[str]:
    """Likely causes of a speed-up that is too small."""
    old, new = measured.old, measured.new
    if new.holds_integers and lacks_integer_products(measured):
        names = ", ".join(processor.INTEGER_PRODUCTS.values())
        yield f"NEW has integer matrix products, and this processor has none of the instructions for them: {names}"
    runtime = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}.get(new.timing.runtime, new.timing.runtime)
    if new.graph is not None and new.holds_integers:
        integers, floats = (sum(new.graph.executed.get(kind, 0) for kind in kinds) for kinds in PRODUCTS)
        if not integers:
            yield f"NEW stores integers, but {runtime} multiplies floats: it runs no integer matrix product"
        elif floats:
            yield f"of the {integers + floats} matrix products that {runtime} runs, {floats} still multiply floats"
        share = new.graph.widened / sum(math.prod(shape) for shape in new.weights.shapes)
        if share > MANY_WIDENED:
            yield f"{share:.0%} of NEW's weights are stored as integers, and every call converts them to floats"
    yield from unfused(measured)
    if (
        new.weights.bytes >= old.weights.bytes
        and new.weights.shapes == old.weights.shapes
        and new.weights.zeros > old.weights.zeros + MANY_ZEROS
    ):
        yield (
            f"{new.weights.zeros:.0%} of NEW's weights are zero ({old.weights.zeros:.0%} of OLD's), in arrays of the "
            "same shapes: zeros that stay in place save no time; remove heads, neurons or layers instead"
        )
    elif new.weights.shapes == old.weights.shapes and not new.holds_integers:
        yield "NEW's arrays have OLD's shapes and are multiplied as floats, so NEW saves no arithmetic"
    alone, in_batch = old.timing.latency.batch_1.p50, 1000 / old.timing.throughput_per_s
    if alone < SMALL_MS and in_batch < alone / 2:
        yield (
            f"OLD takes {alone:.2f} ms for a text alone and {in_batch:.2f} ms in a batch: most of a call is "
            "overhead, which a smaller model does not save"
        )
    if measured.throughput_ratio >= wanted > measured.speed_up:
        yield f"single texts were timed: in batches of 32 NEW is {measured.throughput_ratio:.2f} times as fast"
    if old.timing.runtime != new.timing.runtime:
        yield f"OLD runs in {old.timing.runtime} and NEW in {new.timing.runtime}: the runtimes differ in speed"


def unfused(measured: Measured) -> Iterator[str]:
    """The parts of NEW's encoder that ONNX Runtime did not fuse."""
    graph, before = measured.new.graph, measured.old.graph
    if graph is None or measured.new.timing.runtime != "onnxruntime":
        return
    for name, whole, piece in (("attention", ATTENTION, "Softmax"), ("LayerNorm", LAYER_NORM, "ReduceMean")):
        if graph.executed.get(piece) and not any(graph.executed.get(kind) for kind in whole):
            beside = ""
            if before is not None:
                fused = any(before.executed.get(kind) for kind in whole)
                beside = "; in OLD it is fused" if fused else "; in OLD it is not fused either"
            yield f"{name} is not fused: ONNX Runtime runs {graph.executed[piece]} separate {piece} nodes{beside}"


def wrong_products(side: Side) -> str:
    """The message that the runtime is at fault, and not the file."""
    return (
        f"{side.timing.runtime} computes wrong integer products on this processor, for {len(side.inexact)} matrices "
        f"(the first is {side.inexact[0]}); other processors may be exact, and so are weights of 7 bits (reduced range)"
    )


def lacks_integer_products(measured: Measured) -> bool:
    """Whether the processor's features are known and include no integer products."""
    return measured.features is not None and not measured.features & processor.INTEGER_PRODUCTS.keys()


def contradiction(claim: Claim, measured: Measured) -> str | None:
    """The way a claim contradicts the measurement, or None. The claimed score or its interval must overlap the measured
    interval. The claimed bytes must be those of the weights, their file or the folder, within 1 %. The claimed speed-up
    must not be far above the best repeat's."""
    new, (low, high) = measured.new, measured.new.interval
    if not all(map(math.isfinite, (claim.value, *(claim.interval or ())))):
        return f"{claim.file} claims a {claim.what} of {claim.value}, which is not a finite number"
    if claim.what == "score":
        least, most = claim.interval or (claim.value, claim.value)
        if min(least, claim.value) > high or max(most, claim.value) < low:
            return (
                f"{claim.file} claims a score of {100 * claim.value:.1f}; measured here: {100 * new.score:.1f} "
                f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
            )
    elif claim.what == "bytes":
        sizes = (new.weights.bytes, new.file_bytes, new.bytes)
        if all(abs(claim.value - size) > 0.01 * size for size in sizes):
            return f"{claim.file} claims a size of {bytes_text(claim.value)}; measured on disk: {bytes_text(new.bytes)}"
    elif claim.value > SPEED_UP_SLACK * measured.speed_up_range[1]:
        return f"{claim.file} claims a speed-up of {claim.value:.2f}; measured here: {measured.speed_up:.2f}"
    return None
