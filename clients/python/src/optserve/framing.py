"""Streamed messages without copies of their bytes.

Every message of a stream of bytes has a `optserve.v1.Chunk` as its last field, and a chunk
its bytes. The codec here writes and reads the very bytes that the generated code does, but
takes the payload from where it lies and gives a view of where it was received. Client and
server share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from optserve.v1.tensor_pb2 import Chunk

M = TypeVar("M", bound=Message)

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types of protocol buffers; the two for groups are not used in proto3."""

OFFSET_TAG = Chunk.BYTE_OFFSET_FIELD_NUMBER << 3 | VARINT
DATA_TAG = Chunk.DATA_FIELD_NUMBER << 3 | LENGTH


@dataclass(frozen=True, slots=True)
class ChunkView:
    """A `Chunk` whose bytes lie elsewhere.

    Attributes:
        byte_offset: where the run starts in the sequence.
        data: the bytes, contiguous.
    """

    byte_offset: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Framed(Generic[M]):
    """A message of a stream and its chunk, which the message itself leaves out."""

    message: M
    chunk: ChunkView | None = None


class Framing(Generic[M]):
    """Writes and reads one kind of message.

    Args:
        kind: the generated class; it has a field ``chunk``, its last.
    """

    def __init__(self, kind: type[M]) -> None:
        self._kind = kind
        self._tag = kind.DESCRIPTOR.fields_by_name["chunk"].number << 3 | LENGTH

    def encode(self, framed: Framed[M]) -> bytes:
        """The message's bytes. The payload is copied once."""
        head, chunk = framed.message.SerializeToString(), framed.chunk
        if chunk is None:
            return head
        inner = b""
        if chunk.byte_offset:
            inner += bytes((OFFSET_TAG,)) + varint(chunk.byte_offset)
        if len(chunk.data):
            inner += bytes((DATA_TAG,)) + varint(len(chunk.data))
        length = varint(len(inner) + len(chunk.data))
        return b"".join((head, varint(self._tag), length, inner, chunk.data))

    def decode(self, received: bytes) -> Framed[M]:
        """The message that ``received`` holds. The payload stays where it is.

        Raises:
            DecodeError: it holds none.
        """
        view = memoryview(received)
        others: list[memoryview] = []
        offset, data = 0, None
        for tag, start, inner, stop in fields(view):
            if tag != self._tag:
                others.append(view[start:stop])
                continue
            # A field that comes twice is merged: what the later one states holds.
            more_offset, more_data = _chunk(view[inner:stop])
            offset = offset if more_offset is None else more_offset
            data = more_data if more_data is not None else (data or view[:0])
        message = self._kind.FromString(b"".join(others))
        return Framed(message, None if data is None else ChunkView(offset, data))


def _chunk(view: memoryview) -> tuple[int | None, memoryview | None]:
    """Offset and bytes of a chunk, where it states them."""
    offset, data = None, None
    for tag, _, inner, stop in fields(view):
        if tag == OFFSET_TAG:
            offset, _ = read_varint(view, inner)
        elif tag == DATA_TAG:
            data = view[inner:stop]
    return offset, data


def fields(view: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Each field's tag, and where it, its content and the next field start.

    Raises:
        DecodeError: the bytes are no message.
    """
    start, end = 0, len(view)
    while start < end:
        tag, inner = read_varint(view, start)
        kind = tag & 7
        if tag >> 3 == 0 or tag >> 32:
            raise DecodeError("a field has a number that no field can have")
        if kind == LENGTH:
            length, inner = read_varint(view, inner)
            stop = inner + length
        elif kind == VARINT:
            _, stop = read_varint(view, inner)
        elif kind in (FIXED64, FIXED32):
            stop = inner + (8 if kind == FIXED64 else 4)
        else:
            raise DecodeError(f"a field has wire type {kind}")
        if stop > end:
            raise DecodeError("a field is longer than its message")
        yield tag, start, inner, stop
        start = stop


def read_varint(view: memoryview, start: int) -> tuple[int, int]:
    """The varint at ``start``, as an unsigned 64-bit number, and where it ends.

    Raises:
        DecodeError: it does not end, or is longer than ten bytes.
    """
    value = 0
    for position, byte in enumerate(view[start : start + 10]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, start + position + 1
    raise DecodeError("a varint does not end")


def varint(value: int) -> bytes:
    """A number of up to 64 bits as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
