"""Reads a compiled program from its optimised HLO: products, traffic between devices, traffic to memory.

XLA's own numbers (`cost_analysis`) count the body of a loop once, do not include the interconnect and do not
distinguish float32 from bfloat16 products. The HLO text contains all of that, once it is known how often each
computation runs. The price is a parser of a format that may change; tests compare it with small programs and closed
forms.

All numbers are per device: the program is the same on all devices, and its shapes are those of one device's shard.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^}]*\})?")
CALLS = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.-]+)")
BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
# These instructions and the arrays that they name cause no traffic: they only describe how existing arrays are used.
NO_TRAFFIC = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"}


class Array(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    in_memory: bool
    """Whether it is in the device's main memory (HBM), and not in a faster memory on the processor."""

    @property
    def bytes(self) -> int:
        digits = re.search(r"\d+", self.dtype)  # none in pred and token
        return math.prod(self.shape) * max(1, int(digits[0]) // 8 if digits else 1)


class Instruction(NamedTuple):
    name: str
    kind: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    computation: str

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.results)


class Product(NamedTuple):
    """A matrix product. Convolutions are included, because TPUs compute all products as convolutions."""

    site: str
    """The scope of the product: the site that the model names, or the end of jax's path."""
    dtypes: tuple[str, ...]
    """The dtypes of the operands."""
    flops: int
    """FLOPs of one run; a multiply and an add count as two."""
    times: int
    """Number of runs per step."""


class Moved(NamedTuple):
    """The traffic of one kind of collective."""

    count: int
    payload: float
    """Bytes of the whole arrays that are reduced or gathered."""
    sent: float
    """Bytes that a device sends in a ring: (n - 1) / n of the payload among n devices, twice that for an all-reduce."""


class Program:
    """The instructions of an optimised HLO module, and how often each computation runs."""

    def __init__(self, text: str):
        self.instructions: dict[str, Instruction] = {}
        computation, order = "", []
        for line in text.splitlines():
            if match := COMPUTATION.match(line):
                computation = match[1]
                order.append(computation)
            elif match := INSTRUCTION.match(line):
                name, results, kind, rest = match.groups()
                operands, _, attributes = rest.partition(")") if kind == "constant" else split_operands(rest)
                arrays = tuple(array_of(*array) for array in ARRAY.findall(results))
                names = tuple(re.findall(r"%([\w.-]+)", operands))
                self.instructions[name] = Instruction(
                    name, kind, arrays, names, operands if kind == "constant" else attributes, computation
                )
        self.times = self._times(order)

    def _times(self, order: list[str]) -> dict[str, int]:
        """How often each computation runs. Computations are listed before their callers, and the entry last. Every
        branch of a conditional counts."""
        inside: dict[str, list[Instruction]] = {name: [] for name in order}
        for instruction in self.instructions.values():
            inside[instruction.computation].append(instruction)
        self.inside = inside
        times = dict.fromkeys(order, 0)
        times[order[-1]] = 1
        for name in reversed(order):
            for instruction in inside[name]:
                trips = self.trip_count(instruction) if instruction.kind == "while" else 1
                for called in called_by(instruction):
                    times[called] = times.get(called, 0) + times[name] * trips
        return times

    def trip_count(self, loop: Instruction) -> int:
        """The trip count of a loop: XLA's own number, or the limit of a counter that starts at 0. A loop with a
        data-dependent end counts as one."""
        if known := re.search(r'"?known_trip_count"?:\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition = re.search(r"condition=%?([\w.-]+)", loop.attributes)
        parts = self.inside.get(condition[1], []) if condition else []
        limits = [int(part.attributes) for part in parts if part.kind == "constant" and part.attributes.isdigit()]
        compared = [part for part in parts if part.kind == "compare" and "direction=LT" in part.attributes]
        return limits[0] if len(limits) == len(compared) == 1 else 1

    @cached_property
    def products(self) -> list[Product]:
        """Every matrix product that runs."""
        products = []
        for one in self.instructions.values():
            if one.kind in ("dot", "convolution") and (times := self.times[one.computation]):
                left, right = (self.instructions[name].results[0] for name in one.operands[:2])
                flops = (dot_flops if one.kind == "dot" else convolution_flops)(one, left, right)
                products.append(Product(site_of(one.attributes), (left.dtype, right.dtype), flops, times))
        return products

    @property
    def flops(self) -> int:
        """FLOPs of all matrix products. Elementwise operations are left out, because a matrix unit does none of
        them."""
        return sum(product.flops * product.times for product in self.products)

    def collectives(self, devices: int) -> dict[str, Moved]:
        """The traffic by kind of collective, in the order of `COLLECTIVES`; only kinds that occur.

        A collective that XLA spreads over several fusions, to overlap it with them, occurs in each of them with the
        same channel. It is counted once.
        """
        totals: dict[str, list[float]] = {}
        seen = set()
        for one in self.instructions.values():
            kind = one.kind.removesuffix("-start")
            channel = re.search(r"channel_id=(\d+)", one.attributes)
            if kind not in COLLECTIVES or (channel and channel[1] in seen) or not self.times[one.computation]:
                continue
            if channel:
                seen.add(channel[1])
            operands = sum(self.instructions[name].bytes for name in one.operands if name in self.instructions)
            n = group_size(one.attributes, devices)
            # The result of `-start` contains its operands as well, so sizes are taken from the operands.
            payload = operands * n if kind == "all-gather" else operands
            ring = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1}.get(kind, (n - 1) / n)
            times, before = self.times[one.computation], totals.setdefault(kind, [0, 0.0, 0.0])
            for place, value in enumerate((1, payload, payload * ring)):
                before[place] += times * value
        return {kind: Moved(int(totals[kind][0]), *totals[kind][1:]) for kind in COLLECTIVES if kind in totals}

    @property
    def memory_traffic(self) -> int:
        """Bytes that are read from and written to main memory by all instructions outside of fusions.

        Whole arrays are counted, which is too much where only some rows are read (an embedding lookup).
        """
        fused = {name for one in self.instructions.values() for name in called_by(one) if one.kind not in CONTROL}
        total = 0
        for one in self.instructions.values():
            times = self.times[one.computation]
            if one.computation in fused or one.kind in NO_TRAFFIC or one.kind.endswith("-done") or not times:
                continue
            read = [array for name in one.operands for array in self.instructions[name].results]
            written = () if one.kind.endswith("-start") and one.kind != "copy-start" else one.results
            if one.kind == "copy-start":  # (destination, source, a signal)
                read, written = [], one.results[:2]
            total += times * sum(array.bytes for array in (*read, *written) if array.in_memory)
        return total


CONTROL = ("while", "conditional", "call")


def called_by(one: Instruction) -> Iterator[str]:
    """The computations that an instruction runs; the body of a loop, but not its condition."""
    yield from CALLS.findall(one.attributes)
    for names in BRANCHES.findall(one.attributes):
        yield from re.findall(r"%?([\w.-]+)", names)


def split_operands(rest: str) -> tuple[str, str, str]:
    """The content of an instruction's parentheses, and what follows them."""
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return rest[:place], ")", rest[place + 1 :]
    return rest, "", ""


def array_of(dtype: str, sizes: str, layout: str) -> Array:
    """An array of a result's type. TPUs write a memory space other than HBM as S(n) into the layout."""
    return Array(dtype, tuple(map(int, filter(None, sizes.split(",")))), "S(" not in layout)


def group_size(attributes: str, devices: int) -> int:
    """The number of devices in one collective, for each form that HLO has."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
    if tiled := re.search(r"replica_groups=\[([\d,]+)\]<=", attributes):
        return int(tiled[1].split(",")[-1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    return listed[1].count(",") + 1 if listed else devices


def dot_flops(one: Instruction, left: Array, right: Array) -> int:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
    axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
    return 2 * math.prod(one.results[0].shape) * math.prod(left.shape[axis] for axis in axes)


def convolution_flops(one: Instruction, left: Array, right: Array) -> int:
    """Two for every multiply and add whose inputs exist. TPUs write batched products as convolutions over dilated
    inputs, where most of the window covers no input."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert labels is not None, one
    inputs, kernel, results = labels.groups()
    attribute = re.search(r"window=\{([^}]*)\}", one.attributes)
    window = dict(part.split("=") for part in attribute[1].split()) if attribute else {}
    taken = 1
    for place, axis in enumerate(axis for axis in sorted(results) if axis.isdigit()):
        steps = {name: int(value.split("x")[place]) for name, value in window.items() if "dilat" in name}
        stride = int(window["stride"].split("x")[place]) if "stride" in window else 1
        low = int(window["pad"].split("x")[place].split("_")[0]) if "pad" in window else 0
        size, spread = left.shape[inputs.index(axis)], steps.get("lhs_dilate", 1)
        taps, dilation = right.shape[kernel.index(axis)], steps.get("rhs_dilate", 1)
        positions = range(one.results[0].shape[results.index(axis)])
        reached = (place * stride + tap * dilation - low for place in positions for tap in range(taps))
        taken *= sum(at % spread == 0 and 0 <= at < (size - 1) * spread + 1 for at in reached)
    rows, columns = (one.results[0].shape[results.index(axis)] for axis in "bf")
    return 2 * rows * columns * right.shape[kernel.index("i")] * taken


def site_of(attributes: str) -> str:
    """The origin of an instruction: the site in brackets that products carry, with * for the step number, or else the
    last two scopes of the path. Gradients are marked as such."""
    match = re.search(r'op_name="([^"]*)"', attributes)
    path = match[1] if match else ""
    sites = re.findall(r"\[([^\]]+)\]", path)
    scopes = [re.sub(r"^(?:transpose\(|jvp\()*|\)*$", "", scope) for scope in path.split("/")[1:-1]]
    name = re.sub(r"step_\d+", "step_*", sites[-1]) if sites else "/".join(filter(None, scopes[-2:]))
    return ("gradient of " if "transpose(" in path else "") + (name or "no scope")


def by_site(products: list[Product]) -> Counter:
    """The number of products that run, by site."""
    counted: Counter = Counter()
    for product in products:
        counted[product.site] += product.times
    return counted
