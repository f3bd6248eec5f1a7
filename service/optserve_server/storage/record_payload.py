"""Payload of a record: facts as JSON, then arrays of bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from optserve_server.storage.files import Piece

_LENGTH = struct.Struct("<I")
_SIZES = "sizes"

dumps = json.JSONEncoder(separators=(",", ":")).encode
"""JSON as records hold it."""


def pack_payload(facts: Mapping[str, Any], buffers: Sequence[Piece] = ()) -> list[Piece]:
    """The pieces of a payload.

    Args:
        facts: what JSON can say; ``sizes`` is not to be among them. Floats are restored exactly.
        buffers: bytes, which are not copied.
    """
    return pack_text(dumps(facts), buffers)


def pack_text(facts: str, buffers: Sequence[Piece] = ()) -> list[Piece]:
    """The same of facts that are JSON already: an object that is not empty."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    sizes = ",".join([str(len(view)) for view in views])
    text = f'{facts[:-1]},"{_SIZES}":[{sizes}]}}'.encode()
    return [_LENGTH.pack(len(text)) + text, *views]


def add_time(pieces: Sequence[Piece], seconds: float) -> list[Piece]:
    """A payload that also states when its change was made: ``time``, Unix time in seconds."""
    text = bytes(pieces[0][_LENGTH.size : -1]) + f',"time":{seconds!r}}}'.encode()
    return [_LENGTH.pack(len(text)) + text, *pieces[1:]]


def unpack_payload(payload: memoryview) -> tuple[dict[str, Any], list[memoryview]]:
    """Facts and buffers of a payload whose checksum was right."""
    (length,) = _LENGTH.unpack_from(payload)
    position = _LENGTH.size + length
    facts = json.loads(bytes(payload[_LENGTH.size : position]))
    buffers = []
    for size in facts.pop(_SIZES):
        buffers.append(payload[position : position + size])
        position += size
    return facts, buffers
