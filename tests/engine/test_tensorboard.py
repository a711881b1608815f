"""The event file, read by somebody else's protocol buffers and checksums."""

import math
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from bertjax.engine.tensorboard import Board

KIND = FieldDescriptorProto
MESSAGES = {
    "Value": [("tag", 1, KIND.TYPE_STRING), ("simple_value", 2, KIND.TYPE_FLOAT)],
    "Summary": [("value", 1, "Value")],
    "Event": [
        ("wall_time", 1, KIND.TYPE_DOUBLE),
        ("step", 2, KIND.TYPE_INT64),
        ("file_version", 3, KIND.TYPE_STRING),
        ("summary", 5, "Summary"),
    ],
}
"""The fields of tensorflow/core/util/event.proto and framework/summary.proto that a scalar needs."""


def event_class() -> type[Message]:
    file = FileDescriptorProto(name="event.proto", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            one = message.field.add(name=field, number=number, label=KIND.LABEL_OPTIONAL)
            if isinstance(kind, str):
                one.type, one.type_name = KIND.TYPE_MESSAGE, kind
            else:
                one.type = kind
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("Event"))


def records(content: bytes) -> list[bytes]:
    found = []
    while content:
        [length] = struct.unpack("<Q", content[:8])
        event = content[12 : 12 + length]
        for part, stored in ((content[:8], content[8:12]), (event, content[12 + length : 16 + length])):
            crc = google_crc32c.value(part)
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.unpack("<I", stored) == (masked,)
        found.append(event)
        content = content[16 + length :]
    return found


def test_scalars_are_read_as_they_were_written(tmp_path: Path):
    board = Board(tmp_path / "board")
    written = [("loss", 0.5, 1), ("loss/words", -1e30, 127), ("learning_rate", math.inf, 128), ("größe", 1e300, 2**40)]
    for name, value, step in written:
        board.scalar(name, value, step)
    board.close()
    [file] = (tmp_path / "board").iterdir()
    assert "tfevents" in file.name
    parsed: Any = [event_class().FromString(record) for record in records(file.read_bytes())]
    first, *events = parsed
    assert first.file_version == "brain.Event:2"
    as_float32 = [(name, value if abs(value) < 1e39 else math.inf, step) for name, value, step in written]
    found = [(event.summary.value.tag, event.summary.value.simple_value, event.step) for event in events]
    assert found == [(name, pytest.approx(value), step) for name, value, step in as_float32]
    assert all(event.wall_time >= first.wall_time > 1.7e9 for event in events)
