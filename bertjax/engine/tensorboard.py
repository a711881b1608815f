"""Scalars in a file that TensorBoard reads.

The file is a sequence of records (TFRecord): length, checksum of the length, event, checksum of the event. An event is
a protocol buffer with a time, a step and a named number. The trade-off: forty lines here instead of tensorboardX, which
imports torch wherever torch is installed and so makes every command start two seconds later.
"""

import os
import socket
import struct
import time
from ctypes import c_float
from pathlib import Path


class Board:
    """Writes the numbers of a run to a new file in `folder`."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb", buffering=0)  # a record is there as soon as it is written
        self._event(_field(3, b"brain.Event:2"))

    def scalar(self, name: str, value: float, step: int) -> None:
        number = _field(1, name.encode()) + b"\x15" + bytes(c_float(value))  # field 2, 4 bytes
        self._event(b"\x10" + _varint(step) + _field(5, _field(1, number)))  # field 2, a varint

    def close(self) -> None:
        self._file.close()

    def _event(self, fields: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + fields  # field 1, 8 bytes
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits in a byte, the lowest first; the eighth says that more follow."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = [_table_entry(byte) for byte in range(256)]


def _checksum(content: bytes) -> bytes:
    """CRC-32C, masked as TFRecord does it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)
