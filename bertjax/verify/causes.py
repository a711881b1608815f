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
        asked = f"at most {allowed:g} may be lost" if allowed >= 0 else f"a gain of {-allowed:g} was asked for"
        what = f"the score {moved} {abs(measured.change):.2f} points; {asked}"
        failures.append(Failure(what, tuple(why_worse(measured, bounds.max_drop))))
    if bounds.min_speedup is not None and not measured.speed_up >= bounds.min_speedup:
        what = f"it is {measured.speed_up:.2f} times as fast; {bounds.min_speedup:g} times was asked for"
        failures.append(Failure(what, tuple(why_slow(measured, bounds.min_speedup))))
    if bounds.max_mb is not None and measured.new.bytes > bounds.max_mb * 1e6:
        what = f"it takes {measured.new.bytes / 1e6:.2f} MB; at most {bounds.max_mb:g} were asked for"
        failures.append(Failure(what, (f"where the bytes are: {measured.new.weights.makeup}",)))
    if not measured.new.finite:
        failures.append(Failure("some of its logits are no numbers: something overflows"))
    if (parity := measured.parity) is not None and not parity.distance <= FAR:
        off = f"logits are off by {parity.distance:.2g} of their size"
        why = (wrong_products(measured.new),) if measured.new.inexact else ()
        failures.append(Failure(f"it does not compute what {parity.bundle} does in JAX: {off}", why))
    return failures + [
        Failure(mismatch) for claim in measured.new.claims if (mismatch := contradiction(claim, measured))
    ]


def why_worse(measured: Measured, allowed: float) -> Iterator[str]:
    """Likely causes of a lower score."""
    new, parity = measured.new, measured.parity
    if measured.renamed is not None:
        yield (
            f"{measured.renamed:.1%} of its answers are OLD's if its classes are called otherwise, "
            f"{measured.agreement:.1%} as they are called now: outputs or `id2label` are in another order"
        )
    if new.answers == 1 and measured.labels != 1:
        yield "it gives every text the same answer: what it learnt is gone"
    if measured.same_tokens < 1:
        yield f"its tokenizer cuts {1 - measured.same_tokens:.1%} of the texts into other ids than OLD's"
    if new.truncated > measured.old.truncated:
        yield f"{new.truncated} texts are too long for it and lose their end, {measured.old.truncated} for OLD"
    if new.finite and parity is not None and parity.agreement is not None:
        if parity.agreement >= FAITHFUL:
            yield f"{parity.bundle} in JAX answers the same: the score was lost before the export"
        else:
            yield (
                f"{parity.bundle} in JAX answers {1 - parity.agreement:.1%} of the texts otherwise (logits differ by "
                f"up to {parity.largest:.3g}): the score was lost between the two, by the export or its rounding"
            )
    if new.inexact:
        yield wrong_products(new)
    if 100 * measured.difference[1] > -allowed:
        most = f"{100 * measured.difference[1]:+.2f} points"
        yield f"{measured.texts} texts are too few to be sure of it: the 95 % interval of the change reaches to {most}"


def why_slow(measured: Measured, wanted: float) -> Iterator[str]:
    """Likely causes of a speed-up that is too small."""
    old, new = measured.old, measured.new
    if new.holds_integers and lacks_integer_products(measured):
        names = ", ".join(processor.INTEGER_PRODUCTS.values())
        yield f"it holds integer products, and this processor has none of: {names}"
    if new.graph is not None and new.holds_integers:
        integers, floats = (sum(new.graph.executed.get(kind, 0) for kind in kinds) for kinds in PRODUCTS)
        if not integers:
            yield "it stores integers, but ONNX Runtime multiplies floats: no node that runs is a product of integers"
        elif floats:
            yield f"of the {integers + floats} products that ONNX Runtime runs, {floats} are still of floats"
        share = new.graph.widened / sum(math.prod(shape) for shape in new.weights.shapes)
        if share > MANY_WIDENED:
            yield f"{share:.0%} of its numbers are stored as integers, and every call makes floats of them again"
    yield from unfused(measured)
    if (
        new.weights.bytes >= old.weights.bytes
        and new.weights.shapes == old.weights.shapes
        and new.weights.zeros > old.weights.zeros + MANY_ZEROS
    ):
        yield (
            f"{new.weights.zeros:.0%} of its weights are zero ({old.weights.zeros:.0%} of OLD's), in arrays of the "
            "same shapes: zeros that stay in place save no time; remove heads, neurons or layers instead"
        )
    elif new.weights.shapes == old.weights.shapes and not new.holds_integers:
        yield "its arrays have OLD's shapes and are multiplied as floats: there is nothing that could save time"
    alone, in_batch = old.timing.latency.batch_1.p50, 1000 / old.timing.throughput_per_s
    if alone < SMALL_MS and in_batch < alone / 2:
        yield (
            f"OLD takes {alone:.2f} ms for a text alone and {in_batch:.2f} ms in a batch: most of a call is no "
            "arithmetic, and no smaller model saves that"
        )
    if measured.throughput_ratio >= wanted > measured.speed_up:
        yield f"a batch of one: in batches of 32 it answers {measured.throughput_ratio:.2f} times as many texts"
    if old.timing.runtime != new.timing.runtime:
        yield f"OLD runs in {old.timing.runtime} and NEW in {new.timing.runtime}: part of the ratio is the runtimes'"


def unfused(measured: Measured) -> Iterator[str]:
    """The parts of NEW's encoder that ONNX Runtime did not fuse."""
    graph, before = measured.new.graph, measured.old.graph
    if graph is None:
        return
    for name, whole, piece in (("attention", ATTENTION, "Softmax"), ("LayerNorm", LAYER_NORM, "ReduceMean")):
        if graph.executed.get(piece) and not any(graph.executed.get(kind) for kind in whole):
            beside = ""
            if before is not None:
                fused = any(before.executed.get(kind) for kind in whole)
                beside = "; in OLD it is fused" if fused else "; nor is it in OLD"
            yield f"{name} is not fused: ONNX Runtime runs {graph.executed[piece]} {piece} nodes by themselves{beside}"


def wrong_products(side: Side) -> str:
    """The message that the runtime is at fault, and not the file."""
    return (
        f"{side.timing.runtime} multiplies integers wrongly on this processor, in {len(side.inexact)} of its matrices "
        f"({side.inexact[0]} first): the file may be right elsewhere; weights of 7 bits (reduced range) are exact"
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
        return f"{claim.file} claims a {claim.what} of {claim.value}, which is no number"
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
            return f"{claim.file} claims {bytes_text(claim.value)}; on disk are {bytes_text(new.bytes)}"
    elif claim.value > SPEED_UP_SLACK * measured.speed_up_range[1]:
        return f"{claim.file} claims a speed-up of {claim.value:.2f}; measured here: {measured.speed_up:.2f}"
    return None
