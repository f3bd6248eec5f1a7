"""Structural mutation of any message of the contract, by its descriptor.

What comes out is always readable, so it gets past the decoder to the checks behind it, which altered bytes
seldom do.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from optserve.v1 import (
    capabilities_service_pb2,
    function_service_pb2,
    session_service_pb2,
    worker_service_pb2,
)

MAX_DEPTH = 6
"""Messages within messages that are filled."""

TEXTS = ("", "a", "b", "w", "loss", "r", "s" * 300, "\x00", "ä/..", "-", "y_pred * 2", "0" * 64)
INTEGERS = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    64,
    100,
    255,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
NUMBERS = (0.0, -0.0, 1.0, 0.5, -1.0, 1e-300, 1e300, math.inf, -math.inf, math.nan, 0.9, 2.0)

REQUESTS: dict[str, Descriptor] = {
    f"/{service.full_name}/{method.name}": method.input_type
    for module in (
        session_service_pb2,
        worker_service_pb2,
        function_service_pb2,
        capabilities_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Type of the request of each method of the contract."""


def make_message(random: Random, kind: Descriptor, names: tuple[str, ...], depth: int = 0) -> Message:
    """A message with some of its fields set to any values.

    Args:
        random: draws them.
        kind: its type.
        names: values of fields that name something.
        depth: of the message in others.
    """
    message: Message = GetMessageClass(kind)()
    for field in kind.fields:
        if random.random() < (0.6 if depth < 2 else 0.25):
            _set_field(random, message, field, names, depth)
    return message


def mutate_message(random: Random, message: Message, names: tuple[str, ...]) -> None:
    """Changes some fields of a message, at any depth, to other values of their type.

    Args:
        random: draws what.
        message: is changed.
        names: values of fields that name something.
    """
    for _ in range(random.randrange(1, 5)):
        place, depth = message, 0
        while inner := _list_messages(place):
            if random.random() < 0.35:
                break
            place, depth = random.choice(inner), depth + 1
        fields: list[Any] = list(place.DESCRIPTOR.fields)
        if fields:
            _mutate_field(random, place, random.choice(fields), names, depth)


def _mutate_field(
    random: Random, message: Message, field: FieldDescriptor, names: tuple[str, ...], depth: int
) -> None:
    if random.random() < 0.2:
        message.ClearField(field.name)
        return
    values: Any = getattr(message, field.name)
    is_list = field.is_repeated and not (field.message_type and field.message_type.GetOptions().map_entry)
    if is_list and len(values) and random.random() < 0.6:
        match random.randrange(3):
            case 0:
                del values[random.randrange(len(values))]
            case 1:
                values.extend(list(values)[: random.randrange(1, 4)])
            case _:
                values.extend(reversed(list(values)))
        return
    _set_field(random, message, field, names, depth)


def _set_field(
    random: Random, message: Message, field: FieldDescriptor, names: tuple[str, ...], depth: int
) -> None:
    kind = field.message_type
    if kind is not None and depth >= MAX_DEPTH:
        return
    if field.is_repeated:
        values: Any = getattr(message, field.name)
        if kind is not None and kind.GetOptions().map_entry:
            _set_entry(random, values, kind, names, depth)
            return
        for _ in range(random.choice([1, 1, 2, 3, 40])):
            if kind is not None:
                values.add().CopyFrom(make_message(random, kind, names, depth + 1))
            else:
                values.append(_draw_value(random, field, names))
    elif kind is not None:
        getattr(message, field.name).CopyFrom(make_message(random, kind, names, depth + 1))
    else:
        setattr(message, field.name, _draw_value(random, field, names))


def _set_entry(random: Random, values: Any, kind: Descriptor, names: tuple[str, ...], depth: int) -> None:
    """Sets an entry of a map, whose entries are of a type of their own."""
    entry: Any = make_message(random, kind, names, depth + 1)
    if kind.fields_by_name["value"].message_type is None:
        values[entry.key] = entry.value
    else:
        values[entry.key].CopyFrom(entry.value)


def _draw_value(random: Random, field: FieldDescriptor, names: tuple[str, ...]) -> Any:
    """A value that the field can hold."""
    kinds = FieldDescriptor
    match field.cpp_type:
        case kinds.CPPTYPE_BOOL:
            return random.random() < 0.5
        case kinds.CPPTYPE_STRING if field.type == kinds.TYPE_BYTES:
            return random.randbytes(random.choice([0, 1, 4, 32, 64, 1000]))
        case kinds.CPPTYPE_STRING:
            return random.choice([*names, *TEXTS])
        case kinds.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return random.choice([*field.enum_type.values_by_number, 99])
        case kinds.CPPTYPE_DOUBLE | kinds.CPPTYPE_FLOAT:
            return random.choice(NUMBERS)
    bits = 32 if field.cpp_type in (kinds.CPPTYPE_INT32, kinds.CPPTYPE_UINT32) else 64
    is_signed = field.cpp_type in (kinds.CPPTYPE_INT32, kinds.CPPTYPE_INT64)
    value = random.choice(INTEGERS) % (1 << bits)
    if is_signed:
        value = random.choice([1, -1]) * (value % (1 << (bits - 1)))
    return value


def _list_messages(message: Message) -> list[Message]:
    """Messages that are set directly in a message."""
    found: list[Message] = []
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is not None and not kind.GetOptions().map_entry:
            found += list(value) if field.is_repeated else [value]
    return found
