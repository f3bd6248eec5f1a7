"""Streamed messages without copies of their bytes.

Every message of a stream of bytes may end with a `optserve.v1.Chunk`, and a chunk with its
bytes. The codec here writes and reads the very bytes that the generated code does, but
takes the payload from where it lies and gives a view of where it was received. Client and
server share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from optserve.v1.tensor_pb2 import Chunk

M = TypeVar("M", bound=Message)

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types of protocol buffers; the two for groups are not used in proto3."""

Encoded = bytes | bytearray | memoryview
"""A message as it came."""

Field = tuple[int, int, int, int]
"""A field's tag, and where it, its content and the next field start."""

MAX_FIELDS = 1024
"""Fields of a framed message, and of a chunk, whose types have few; more only take time to read."""

OFFSET_TAG = Chunk.BYTE_OFFSET_FIELD_NUMBER << 3 | VARINT
DATA_TAG = Chunk.DATA_FIELD_NUMBER << 3 | LENGTH


@dataclass(slots=True)
class ChunkView:
    """A `Chunk` that refers to bytes of another object.

    Attributes:
        byte_offset: where the run starts in the sequence.
        data: the bytes, contiguous.
    """

    byte_offset: int
    data: memoryview

    @property
    def byte_count(self) -> int:
        """How many bytes it holds."""
        return len(self.data)

    @property
    def parts(self) -> Sequence[Any]:
        """The bytes in the pieces that they lie in."""
        return (self.data,)

    @property
    def received(self) -> memoryview:
        """The bytes that have arrived: all."""
        return self.data

    def receive_rest(self, place: memoryview) -> None:
        """Fills a place with those that have not: there are none."""
        raise ValueError(f"{len(place)} bytes are wanted beyond a chunk's end")


@dataclass(slots=True)
class ChunkParts:
    """A `Chunk` whose bytes are in several buffers; write-only.

    Attributes:
        byte_offset: where the run starts in the sequence.
        byte_count: how many bytes it holds.
        parts: the pieces in their order; contiguous buffers, such as arrays.
    """

    byte_offset: int
    byte_count: int
    parts: Sequence[Any]


@dataclass(frozen=True, slots=True)
class ChunkAhead:
    """The last `Chunk` of a message whose bytes have not been received yet.

    Attributes:
        byte_offset: where the run starts in the sequence.
        byte_count: how many bytes it holds.
        received: those that have arrived, the first ones.
        receive_rest: fills a place with the others.
    """

    byte_offset: int
    byte_count: int
    received: memoryview
    receive_rest: Callable[[memoryview], Any]


@dataclass(slots=True)
class Framed(Generic[M]):
    """A message of a stream and its chunk, which the message itself leaves out."""

    message: M
    chunk: ChunkView | None = None


class Framing(Generic[M]):
    """Writes and reads one kind of message.

    Args:
        kind: the generated class; it has a field ``chunk``, after the fields that may be set with it.
    """

    def __init__(self, kind: type[M]) -> None:
        self._kind, self.descriptor = kind, kind.DESCRIPTOR
        self._tag = kind.DESCRIPTOR.fields_by_name["chunk"].number << 3 | LENGTH

    def encode(self, framed: Framed[M]) -> bytes:
        """The message's bytes. The payload is copied once."""
        head, chunk = framed.message.SerializeToString(), framed.chunk
        return head if chunk is None else self.append_chunk(head, chunk)

    def append_chunk(self, head: bytes, chunk: ChunkView | ChunkParts) -> bytes:
        """The bytes of a message whose other fields are encoded already."""
        return b"".join(self.message_buffers(head, chunk))

    def message_buffers(self, head: bytes, chunk: ChunkView | ChunkParts) -> tuple[Any, ...]:
        """The same in pieces (contiguous buffers), so that the payload may stay where it is."""
        return head, _chunk_prefix(self._tag, chunk.byte_offset, chunk.byte_count), *chunk.parts

    def contiguous_message_buffers(self, head: bytes, byte_offset: int, data: memoryview) -> tuple[Any, ...]:
        """The same for one run of bytes.

        Args:
            head: its other fields, encoded.
            byte_offset: where the chunk's run starts in the sequence.
            data: the chunk's bytes.
        """
        return head, _chunk_prefix(self._tag, byte_offset, len(data)), data

    def decode(self, received: Encoded) -> Framed[M]:
        """The message that ``received`` holds. The payload stays where it is.

        Raises:
            DecodeError: it holds none.
        """
        return Framed(*self.split(received))

    def head_byte_count(self, received: Encoded) -> int:
        """Bytes of a message's fields but for the chunk, which are those that take time to decode.

        Raises:
            DecodeError: it is no message.
        """
        others, _, _ = self._locate_fields(received, len(received))
        return sum(stop - start for _, start, _, stop in others)

    def split(self, received: Encoded) -> tuple[M, ChunkView | None]:
        """The message that ``received`` holds and its chunk; see `decode`."""
        others, span, offset = self._locate_fields(received, len(received))
        chunk = None if span is None else ChunkView(offset, memoryview(received)[span[0] : span[1]])
        return self.decode_fields(received, others), chunk

    def split_sized(self, received: Encoded, byte_count: int) -> tuple[M, ChunkView | None] | None:
        """What `split` returns if the message ends with a first chunk of a known length, or has none.

        None if it is another message, or none at all. The chunk is cut off before the other fields are
        decoded, so none of the fields is looked at in Python.

        Args:
            received: the message.
            byte_count: length of the chunk; 0 for no chunk.
        """
        prefix = _chunk_prefix(self._tag, 0, byte_count) if byte_count else b""
        end = len(received) - byte_count
        start = end - len(prefix)
        if start < 0 or received[start:end] != prefix:
            return None
        try:
            # If complete fields end where the prefix begins, it is the beginning of a field.
            message = self._kind.FromString(received[:start])  # type: ignore[arg-type]  # any buffer
        except DecodeError:
            return None
        if message.HasField("chunk"):
            return None
        return message, ChunkView(0, memoryview(received)[end:]) if byte_count else None

    def parse_head(
        self, head: Encoded, size: int, receive_rest: Callable[[memoryview], Any]
    ) -> tuple[list[Field], ChunkAhead] | None:
        """Where a message's other fields are, and its chunk, whose bytes are still on their way.

        None if the first bytes do not say that the chunk ends the message.

        Args:
            head: the first bytes.
            size: how many the message has.
            receive_rest: fills a place with the others.
        """
        try:
            others, span, offset = self._locate_fields(head, size)
        except (DecodeError, IndexError):
            return None
        if span is None or span[1] != size or any(stop > len(head) for *_, stop in others):
            return None
        return others, ChunkAhead(offset, span[1] - span[0], memoryview(head)[span[0] :], receive_rest)

    def decode_fields(self, received: Encoded, others: list[Field]) -> M:
        """The message of these fields.

        Raises:
            DecodeError: they make none.
        """
        if len(others) == 1:
            return self._kind.FromString(bytes(received[others[0][1] : others[0][3]]))
        return self._kind.FromString(b"".join([received[start:stop] for _, start, _, stop in others]))

    def _locate_fields(self, received: Encoded, end: int) -> tuple[list[Field], tuple[int, int] | None, int]:
        """Fields but for the chunk, where the chunk's bytes are, and what offset it states."""
        others: list[Field] = []
        offset, data, start, count = 0, None, 0, 0
        while start < end:
            count += 1
            if count > MAX_FIELDS:
                raise DecodeError("the message has too many fields")
            # Nearly every field has a tag of one byte and a length; others take the general way.
            tag, inner = received[start], start + 1
            if tag & 0x87 == LENGTH and tag > 0x7 and inner < end:
                length = received[inner]
                inner += 1
                if length > 0x7F:
                    length, inner = read_varint(received, inner - 1, end)
                stop = inner + length
                if stop > end:
                    raise DecodeError("a field is longer than its message")
            else:
                tag, _, inner, stop = next(iterate_fields(received, start, end))
            if tag != self._tag:
                others.append((tag, start, inner, stop))
            else:
                # A field that comes twice is merged: what the later one states holds.
                offset, data = _locate_chunk_data(received, inner, stop, offset, data or (0, 0))
            start = stop
        return others, data, offset


def _locate_chunk_data(
    received: Encoded, start: int, end: int, offset: int, data: tuple[int, int]
) -> tuple[int, tuple[int, int]]:
    """The offset that a chunk states and where its bytes are; the given ones if it does not say."""
    if start < end and received[start] == DATA_TAG:
        length, inner = read_varint(received, start + 1, end)
        if inner + length == end:  # of a first chunk, this is all
            return offset, (inner, end)
    for count, (tag, _, inner, stop) in enumerate(iterate_fields(received, start, end)):
        if count >= MAX_FIELDS:
            raise DecodeError("the chunk has too many fields")
        if tag == DATA_TAG:
            data = inner, stop
        elif tag == OFFSET_TAG:
            offset, _ = read_varint(received, inner, stop)
    return offset, data


@lru_cache(maxsize=4096)  # the chunks of equal steps begin alike
def _chunk_prefix(tag: int, offset: int, byte_count: int) -> bytes:
    """What comes before a chunk's bytes."""
    inner = b""
    if offset:
        inner += bytes((OFFSET_TAG,)) + encode_varint(offset)
    if byte_count:
        inner += bytes((DATA_TAG,)) + encode_varint(byte_count)
    return encode_varint(tag) + encode_varint(len(inner) + byte_count) + inner


def iterate_fields(received: Encoded, start: int, end: int) -> Iterator[Field]:
    """Each field's tag, and where it, its content and the next field start.

    Args:
        received: a message, or a longer run of bytes.
        start: where in it the message starts.
        end: where it ends.

    Raises:
        DecodeError: the bytes are no message.
    """
    while start < end:
        # Most tags and lengths are one byte, which is read here and not in a call.
        tag, inner = received[start], start + 1
        if tag > 0x7F:
            tag, inner = read_varint(received, start, end)
        kind = tag & 7
        if tag >> 3 == 0 or tag >> 32:
            raise DecodeError("a field has a number that no field can have")
        if kind == LENGTH:
            if inner < end and received[inner] <= 0x7F:
                stop = inner + 1 + received[inner]
                inner += 1
            else:
                length, inner = read_varint(received, inner, end)
                stop = inner + length
        elif kind == VARINT:
            _, stop = read_varint(received, inner, end)
        elif kind in (FIXED64, FIXED32):
            stop = inner + (8 if kind == FIXED64 else 4)
        else:
            raise DecodeError(f"a field has wire type {kind}")
        if stop > end:
            raise DecodeError("a field is longer than its message")
        yield tag, start, inner, stop
        start = stop


def read_varint(received: Encoded, start: int, end: int) -> tuple[int, int]:
    """The varint at ``start``, as an unsigned 64-bit number, and where it ends.

    Raises:
        DecodeError: it does not end before ``end``, or is longer than ten bytes.
    """
    value = shift = 0
    for position in range(start, min(start + 10, end)):
        byte = received[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + 1
        shift += 7
    raise DecodeError("a varint does not end")


def encode_varint(value: int) -> bytes:
    """A number of up to 64 bits as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
