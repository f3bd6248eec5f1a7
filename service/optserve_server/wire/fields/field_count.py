"""Limit on the number of elements in a message, checked before it is decoded."""

from __future__ import annotations

from collections import Counter

from google.protobuf.descriptor import Descriptor

from optserve_server.errors import DomainError, Reason

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def check_field_count(data: bytes, message: Descriptor, limit: int) -> None:
    """Checks how often each field of a message occurs, without decoding what is in them.

    A million tensors take seconds to decode, and most of that holds the interpreter. Bytes that cannot
    be read pass; decoding them says what is wrong.

    Args:
        data: the encoded message.
        message: its type.
        limit: how often a field may occur; 0 for no limit.

    Raises:
        DomainError: LIMIT_EXCEEDED.
    """
    counts: Counter[int] = Counter()
    at, end = 0, len(data)
    while limit and at < end:
        try:
            tag, at = _decode_varint(data, at)
            kind = tag & 7
            if kind == _LENGTH:
                length, at = _decode_varint(data, at)
                at += length
            elif kind == _VARINT:
                _, at = _decode_varint(data, at)
            elif kind in (_FIXED32, _FIXED64):
                at += 4 if kind == _FIXED32 else 8
            else:
                return
        except IndexError:
            return
        number = tag >> 3
        counts[number] += 1
        if counts[number] > limit:
            known = message.fields_by_number.get(number)
            raise DomainError(
                Reason.LIMIT_EXCEEDED,
                f"the request has more elements than the server's max_tensors, {limit}",
                field=None if known is None else known.name,
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
