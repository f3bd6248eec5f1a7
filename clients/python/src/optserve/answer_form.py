"""How an answer is written, which those that follow it seldom change."""

from __future__ import annotations

import struct
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from optserve.contents import Contents
from optserve.framing import DATA_TAG, FIXED64, LENGTH, VARINT, Encoded, fields
from optserve.recycler import LARGE
from optserve.steps import StepResult
from optserve.v1 import session_service_pb2 as wire

Span = tuple[int, int]
"""Where something begins and ends in an answer."""

RESULT = wire.StepStreamResponse.RESULT_FIELD_NUMBER << 3 | LENGTH
PARAMETERS = wire.StepStreamResponse.PARAMETERS_FIELD_NUMBER << 3 | LENGTH
CHUNK = wire.StepStreamResponse.CHUNK_FIELD_NUMBER << 3 | LENGTH
AT, CHANGE, DATA = "parameters.step", "parameters.change", "chunk.data"


def _result_fields(kind: int, wire_type: int) -> dict[tuple[int, int], str]:
    found = (field for field in wire.StepResult.DESCRIPTOR.fields if field.type == kind)
    return {(RESULT, field.number << 3 | wire_type): field.name for field in found}


DOUBLES = _result_fields(FieldDescriptor.TYPE_DOUBLE, FIXED64)
COUNTS = _result_fields(FieldDescriptor.TYPE_INT64, VARINT) | {
    (PARAMETERS, wire.ParametersHeader.STEP_FIELD_NUMBER << 3 | VARINT): AT,
    (PARAMETERS, wire.ParametersHeader.CHANGE_FIELD_NUMBER << 3 | VARINT): CHANGE,
}
HOLES = DOUBLES | COUNTS | {(CHUNK, DATA_TAG): DATA}
"""What may differ between answers of one form, by the tags of the outer and the inner field."""
COUNT_BYTES = 9
"""A longer varint is a negative number, or a senseless one."""
NOWHERE = range(0)


class AnswerForm:
    """Reads answers that are written like one that was read before, and tells which are not.

    Such an answer has the same length and, outside its holes, the same bits, whatever they
    mean. The holes are the result's doubles and counts, what its parameters follow, and their
    bytes. The bits that say how long a varint is are no part of a hole.

    Args:
        received: an answer in one message.
        holes: where they are; the parameters' bytes, if there are any, stand last.
        result: what was read from it.
        contents: what it says of its parameters; None where there are none.

    Attributes:
        contents: likewise.
        data: where the parameters' bytes begin.
    """

    def __init__(
        self, received: Encoded, holes: dict[str, Span], result: StepResult, contents: Contents | None
    ) -> None:
        self.contents = contents
        self.data = holes.pop(DATA, (len(received), 0))[0]
        self._end = max((stop for _, stop in holes.values()), default=0)
        self._mask = _mask(holes, self._end)
        self._head = int.from_bytes(received[: self._end], "little") & self._mask
        self._rest = received[self._end : self.data]
        self._told = {name: value for name, value in vars(result).items() if name != "parameters"}
        self._counts = {name: range(*holes[name])[::-1] for name in COUNTS.values() if name in holes}
        self._step, self._change = self._counts.pop(AT, NOWHERE), self._counts.pop(CHANGE, NOWHERE)
        doubles = sorted((holes[name], name) for name in DOUBLES.values() if name in holes)
        self._names = [name for _, name in doubles]
        self._doubles = _doubles([start for (start, _), _ in doubles])

    def matching(self, received: Encoded) -> Encoded | None:
        """The part of an answer that has all holes but the last; None where it is of another form.

        Args:
            received: of the same length as the first.
        """
        head = received[: self._end]
        same = int.from_bytes(head, "little") & self._mask == self._head
        return head if same and received.startswith(self._rest, self._end) else None

    def step(self, head: Encoded) -> int:
        """The step that the parameters belong to."""
        return _varint(head, self._step)

    def change(self, head: Encoded) -> int:
        """How many changes they are the outcome of, where their memory is live."""
        return _varint(head, self._change)

    def fields(self, head: Encoded) -> dict[str, Any]:
        """The fields of `StepResult` but for the parameters."""
        told = self._told | dict(zip(self._names, self._doubles.unpack_from(head), strict=True))
        for name, places in self._counts.items():
            told[name] = _varint(head, places)
        return told | {"tensor_norms": {}}


def learned(received: Encoded, result: StepResult, contents: Contents | None) -> AnswerForm | None:
    """The form of an answer that was read, or None where others will hardly have it.

    Args:
        received: its first message.
        result: what was read.
        contents: what it says of its parameters; None where there are none.
    """
    sent = 0 if contents is None or contents.shared else contents.byte_count
    if result.tensor_norms or sent >= LARGE:
        return None
    holes = _holes(received)
    if holes is None:
        return None
    end = len(received)
    start, stop = holes.get(DATA, (end, end))
    if stop - start != sent or stop != end:
        return None
    return AnswerForm(received, holes, result, contents)


def _holes(received: Encoded) -> dict[str, Span] | None:
    """Where the holes are by name; None where a count is negative."""
    found: dict[str, Span] = {}
    try:
        for outer, _, inner, end in fields(received, 0, len(received)):
            if outer not in (RESULT, PARAMETERS, CHUNK):
                continue
            for tag, _, start, stop in fields(received, inner, end):
                name = HOLES.get((outer, tag))
                if name in COUNTS.values() and stop - start > COUNT_BYTES:
                    return None
                if name is not None:
                    found[name] = start, stop  # of a field that comes twice, the later one holds
    except DecodeError:
        return None  # a group in a message, which generated code skips
    return found


def _mask(holes: dict[str, Span], end: int) -> int:
    """The bits up to ``end`` that answers of one form have in common, as a little-endian number."""
    known = bytearray(b"\xff" * end)
    for name, (start, stop) in holes.items():
        known[start:stop] = (b"\x00" if name in DOUBLES.values() else b"\x80") * (stop - start)
    return int.from_bytes(known, "little")


def _varint(head: Encoded, places: range) -> int:
    """The number whose bytes are at these places, the last one first."""
    number = 0
    for place in places:
        number = number << 7 | head[place] & 0x7F
    return number


def _doubles(starts: list[int]) -> struct.Struct:
    """Reads the doubles at these places."""
    stops = [0, *(start + 8 for start in starts)]
    return struct.Struct(
        "<" + "".join(f"{start - stop}xd" for start, stop in zip(starts, stops, strict=False))
    )
