"""Records of the journal: a header that tells length and checksums, then the payload.

A header is 40 bytes, little-endian: a mark, a checksum of the rest of the header, whose it is,
its number, the payload's length and the payload's checksum. Checksums are XXH3 with the
segment's number for a seed, so that no record of another file is taken for one of this.
They are XXH3 and not CRC-32 because they have to be computed at the rate of a fast disk.
Records begin at multiples of 8, so that a reader finds the next one behind a damaged one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import xxhash

from optserve_server.storage.files import Piece

_MARK = b"\xf5rec"
_MARKS = re.compile(re.escape(_MARK))
_HEADER = struct.Struct("<4sIQQQQ")
_CHECKED = struct.Struct("<QQQQ")
HEADER_BYTES = _HEADER.size
"""Length of a header."""


@dataclass(frozen=True)
class Found:
    """A record in a segment, or a part of one.

    Attributes:
        owner: whose it is.
        number: which of its owner's records, from 1, without gaps.
        payload: its bytes, None if they are damaged or cut off.
        end: offset at which the next record begins.
    """

    owner: int
    number: int
    payload: memoryview | None
    end: int


@dataclass(frozen=True)
class Hole:
    """Bytes of a segment from ``start`` to ``end`` that are no record."""

    start: int
    end: int


def make_checksum_state(segment: int) -> xxhash.xxh3_64:
    """What sums up a payload block by block."""
    return xxhash.xxh3_64(seed=segment)


def payload_checksum(pieces: Sequence[Piece], segment: int) -> int:
    """The checksum of a payload."""
    hasher = make_checksum_state(segment)
    for piece in pieces:
        hasher.update(piece)
    return hasher.intdigest()


def encode_header(owner: int, number: int, length: int, of_payload: int, segment: int) -> bytes:
    """A record's header."""
    checked = _CHECKED.pack(owner, number, length, of_payload)
    return _HEADER.pack(_MARK, _header_checksum(checked, segment), owner, number, length, of_payload)


def padding_length(length: int) -> int:
    """Zero bytes that follow a payload of ``length`` bytes."""
    return -(HEADER_BYTES + length) % 8


def scan_segment(data: memoryview, segment: int) -> Iterator[Found | Hole]:
    """Everything in a segment, in order."""
    position = 0
    while position < len(data):
        found = _parse_record(data, position, segment)
        if found is None:
            after = _find_next_header(data, position + 8, segment)
            yield Hole(position, after)
            position = after
            continue
        yield found
        position = found.end


def _parse_record(data: memoryview, position: int, segment: int) -> Found | None:
    fields = _parse_header(data, position, segment)
    if fields is None:
        return None
    owner, number, length, of_payload = fields
    start = position + HEADER_BYTES
    payload = data[start : start + length]
    sound = len(payload) == length and payload_checksum([payload], segment) == of_payload
    end = min(start + length + padding_length(length), len(data))
    return Found(owner, number, payload if sound else None, end)


def _parse_header(data: memoryview, position: int, segment: int) -> tuple[int, int, int, int] | None:
    if position + HEADER_BYTES > len(data):
        return None
    mark, own, owner, number, length, of_payload = _HEADER.unpack_from(data, position)
    checked = data[position + _HEADER.size - _CHECKED.size : position + _HEADER.size]
    if mark != _MARK or own != _header_checksum(checked, segment):
        return None
    return owner, number, length, of_payload


def _find_next_header(data: memoryview, position: int, segment: int) -> int:
    """The position of the next header; the end if there is none."""
    for match in _MARKS.finditer(data, position):
        if match.start() % 8 == 0 and _parse_header(data, match.start(), segment) is not None:
            return match.start()
    return len(data)


def _header_checksum(checked: Piece, segment: int) -> int:
    return xxhash.xxh3_64_intdigest(checked, seed=segment) & 0xFFFFFFFF
