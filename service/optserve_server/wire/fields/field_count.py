"""Limit on the number of elements in a message, checked before it is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from optserve_server.errors import DomainError, Reason

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

MAX_DEPTH = 100
"""Messages within messages that protobuf decodes; deeper ones are rejected when they are decoded."""

NUMBERS_PER_ELEMENT = 8
"""Numbers of a field, for each element that the limit allows."""


class _Field:
    """A field of a type: what it holds. It is counted in all messages of its type together.

    Attributes:
        name: its name; empty if the type has none of that number.
        type: of the messages that it holds; None if it holds none.
    """

    __slots__ = ("name", "type")

    def __init__(self, known: FieldDescriptor | None) -> None:
        self.name = "" if known is None else known.name
        self.type = None if known is None else known.message_type


@cache
def _fields_of(message: Descriptor) -> Mapping[int, _Field]:
    """The fields of a type by number."""
    return {number: _Field(known) for number, known in message.fields_by_number.items()}


_UNKNOWN = _Field(None)


def check_field_count(data: bytes, message: Descriptor, limit: int) -> None:
    """Checks how often each field occurs in a message and in all messages within it, without decoding them.

    A million tensors take seconds to decode, and most of that holds the interpreter. Bytes that cannot
    be read pass; decoding them says what is wrong.

    Args:
        data: the encoded message.
        message: its type.
        limit: how often a field may occur; numbers, each with a tag of its own, may be
            `NUMBERS_PER_ELEMENT` times as many. 0 for no limit.

    Raises:
        DomainError: LIMIT_EXCEEDED.
    """
    if not limit:
        return
    counts, numbers = dict[_Field, int](), dict[_Field, int]()
    path = list[str]()
    ends, tables = [len(data)], [_fields_of(message)]
    at, end, fields = 0, len(data), tables[0]
    try:
        while True:
            if at >= end:
                ends.pop()
                tables.pop()
                if not ends:
                    return
                path.pop()
                end, fields = ends[-1], tables[-1]
                continue
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = _decode_varint(data, at - 1)
            kind, number = tag & 7, tag >> 3
            field = fields.get(number, _UNKNOWN)
            if kind == _LENGTH:
                length = data[at]
                at += 1
                if length >= 0x80:
                    length, at = _decode_varint(data, at - 1)
                stop = at + length
                if stop > end:
                    return
                counts[field] = count = counts.get(field, 0) + 1
                if count > limit:
                    raise _too_many_error(path, field, limit, limit)
                if field.type is not None and length:
                    if len(ends) > MAX_DEPTH:
                        return
                    end, fields = stop, _fields_of(field.type)
                    ends.append(end)
                    tables.append(fields)
                    path.append(field.name)
                    continue
                at = stop  # numbers in one sequence of bytes are decoded at the speed of memory
                continue
            if kind == _VARINT:
                while data[at] >= 0x80:
                    at += 1
                at += 1
            elif kind in (_FIXED32, _FIXED64):
                at += 4 if kind == _FIXED32 else 8
            else:
                return
            numbers[field] = count = numbers.get(field, 0) + 1
            if count > limit * NUMBERS_PER_ELEMENT:
                raise _too_many_error(path, field, limit, limit * NUMBERS_PER_ELEMENT)
    except IndexError:
        return


def _too_many_error(path: list[str], field: _Field, limit: int, most: int) -> DomainError:
    name = ".".join([*path, field.name]) if field.name else None
    return DomainError(
        Reason.LIMIT_EXCEEDED,
        f"the request has more than {most} elements {name or 'of an unknown field'}; max_tensors is {limit}",
        field=name,
        metadata={"limit": "max_tensors", "value": limit},
    )


def _decode_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("a number of more than ten bytes")
