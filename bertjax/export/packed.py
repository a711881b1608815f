"""Weights that an ONNX file stores in few bits, and the nodes that unpack them.

The file stores a matrix as the bundle does: integers packed to their bits, without zeros where that is smaller. The
unpacking nodes read constants alone, so ONNX Runtime computes them once, when it loads the file, and its optimised
graph holds the whole matrix: of int8 for an integer product, else of float32. The file is small; loading takes longer,
and memory and time of a call are those of a file with whole matrices. A table with rows in whole bytes is the
exception: its rows are looked up packed, and unpacked in every call, so it stays small in memory.

Integers of 7 and 8 bits are stored as bytes. A byte of 2-bit, 4-bit or ternary integers is an index into a table of 256
rows; other widths are put together from single bits.
"""

from typing import Any

import numpy as np

from bertjax.export.graph import FLOAT, INT8, INT32, Graph
from bertjax.quantized.formats import Format
from bertjax.quantized.grid import group_of
from bertjax.quantized.packing import pack_bits, unpack_bits
from bertjax.quantized.stored import kept_numbers
from bertjax.quantized.tensor import Quantized
from bertjax.storage.zeros import BITMAP, Nonzero

BYTE = 7
"""The number of bits from which integers are stored as bytes."""


def whole_matrix(graph: Graph, path: str, leaf: Any) -> str:
    """A matrix, unpacked when the file is loaded: int8 for a quantised one, else float32."""
    numbers, found = kept_numbers(leaf)
    quantised = isinstance(leaf, Quantized)
    if found is None and not quantised:
        return graph.constant(path, np.asarray(leaf, np.float32))
    name = f"{path}/integers" if quantised else f"{path}/float"
    if found is None and leaf.format.bits >= BYTE:
        return graph.constant(name, numbers)
    with graph.at_load():
        if not graph.has(name):
            entries = integers(graph, path, leaf, numbers) if quantised else floats(graph, path, numbers)
            flat = with_zeros(graph, path, found, entries, leaf) if found else entries
            graph.node("Reshape", flat, graph.numbers(*leaf.shape), name=name)
    return name


def floats(graph: Graph, path: str, numbers: np.ndarray) -> str:
    """Numbers that the file may store in 16 bits."""
    return graph.node("Cast", graph.constant(f"{path}/numbers", numbers), to=FLOAT)


def integers(graph: Graph, path: str, leaf: Quantized, numbers: np.ndarray) -> str:
    """The integers of a matrix, as int8: all of them, or those that are not zero."""
    if leaf.format.bits >= BYTE:
        return graph.constant(f"{path}/bytes", numbers)
    if by_rows(leaf, numbers):
        return unpacked(graph, packed_rows(graph, path, leaf), leaf.format)
    packed = graph.constant(f"{path}/packed", pack_bits(numbers, leaf.format))
    flat = graph.node("Reshape", unpacked(graph, packed, leaf.format), graph.numbers(-1))
    return graph.node("Slice", flat, graph.numbers(0), graph.numbers(numbers.size))


def by_rows(leaf: Quantized, numbers: np.ndarray) -> bool:
    """Whether each row of a matrix can be unpacked on its own: no zeros are left out, it takes whole bytes, and no
    integer lies in two of them."""
    whole = leaf.format.bits < BYTE and numbers.ndim == 2 and in_table(leaf.format)
    return whole and leaf.shape[1] % digits(leaf.format).shape[1] == 0


def packed_rows(graph: Graph, path: str, leaf: Quantized) -> str:
    """The packed rows of a matrix [rows, bytes]."""
    packed = pack_bits(np.asarray(leaf.values), leaf.format)
    return graph.constant(f"{path}/packed", packed.reshape(leaf.shape[0], -1))


def looked_up(graph: Graph, path: str, leaf: Quantized, ids: str) -> str:
    """The integers [batch, length, columns] of the rows of a table, as int8."""
    if not by_rows(leaf, kept_numbers(leaf)[0]):
        return graph.node("Gather", whole_matrix(graph, path, leaf), ids)
    rows = unpacked(graph, graph.node("Gather", packed_rows(graph, path, leaf), ids), leaf.format)
    return graph.node("Reshape", rows, graph.numbers(0, 0, leaf.shape[1]))


def in_table(format: Format) -> bool:
    """Whether every byte holds whole integers of the format."""
    return format.scheme == "ternary" or 8 % format.bits == 0


def digits(format: Format) -> np.ndarray:
    """The integers in every possible byte, int8 [256, integers per byte]."""
    shape = (5 if format.scheme == "ternary" else 8 // format.bits,)
    return np.stack([unpack_bits(np.array([byte], np.uint8), shape, format) for byte in range(256)])


def unpacked(graph: Graph, packed: str, format: Format) -> str:
    """The integers in packed bytes [..., n], as int8; their last axes are to be joined."""
    if in_table(format):
        table = graph.constant(f"digits/{format.bits}/{format.scheme}", digits(format))
        return graph.node("Gather", table, graph.node("Cast", packed, to=INT32))
    above = fields(graph, packed, format.bits)
    return graph.node("Cast", graph.node("Add", above, graph.number(float(format.lowest))), to=INT8)


def fields(graph: Graph, packed: str, bits: int) -> str:
    """The unsigned numbers of so many bits in packed bytes, float32 [all of them]; what is left at the end is cut
    off."""
    flat = single_bits(graph, packed)
    count = graph.node("Div", graph.node("Shape", flat), graph.numbers(bits))
    whole = graph.node("Slice", flat, graph.numbers(0), graph.node("Mul", count, graph.numbers(bits)))
    each = graph.node("Cast", graph.node("Reshape", whole, graph.numbers(-1, bits)), to=FLOAT)
    return graph.node("MatMul", each, graph.constant(f"powers/{bits}", 2 ** np.arange(bits, dtype=np.float32)))


def single_bits(graph: Graph, packed: str) -> str:
    """The bits of bytes, the lowest first, uint8 [all of them]."""
    table = graph.constant("digits/1", (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.uint8))
    return graph.node("Reshape", graph.node("Gather", table, graph.node("Cast", packed, to=INT32)), graph.numbers(-1))


def with_zeros(graph: Graph, path: str, found: Nonzero, entries: str, leaf: Any) -> str:
    """The flat matrix with the entries at their places and zeros elsewhere."""
    content, size = graph.constant(f"{path}/{found.encoding}", found.places), int(np.prod(leaf.shape))
    kind, dtype = (INT8, np.int8) if isinstance(leaf, Quantized) else (FLOAT, np.float32)
    first = graph.constant("int32/0", np.int32(0))
    if found.encoding == BITMAP:  # not by NonZero, which ONNX Runtime repeats in every call
        bits = graph.node("Slice", single_bits(graph, content), graph.numbers(0), graph.numbers(size))
        bits = graph.node("Cast", bits, to=INT32)
        number = graph.node("Mul", graph.node("CumSum", bits, first), bits)
        zero = graph.constant(f"zero/{kind}", np.zeros(1, dtype))
        return graph.node("Gather", graph.node("Concat", zero, entries, axis=0), number)
    gaps = fields(graph, content, int(found.encoding.removeprefix("gaps_")))
    gaps = graph.node("Slice", gaps, graph.numbers(0), graph.numbers(found.numbers.size))
    ends = graph.node("CumSum", graph.node("Cast", gaps, to=INT32), first)
    places = graph.node("Sub", ends, graph.constant("int32/1", np.int32(1)))
    return graph.node("ScatterElements", graph.filled(size, kind), places, entries, axis=0)


def spread(graph: Graph, shared: str, sizes: tuple[int, ...], axis: int) -> str:
    """Values per group of rows or columns, repeated for each row or column; of a single group it is one value."""
    equal = len(set(sizes)) == 1
    if len(sizes) == 1 or (sizes[0] == 1 == sizes[-1] and equal):
        return shared
    about = f"{len(sizes)}x{sizes[0]}" if equal else "_".join(map(str, sizes))
    index = graph.constant(f"groups/{about}", group_of(sizes).astype(np.int32))  # matrices with equal groups share it
    return graph.node("Gather", shared, index, axis=axis)
