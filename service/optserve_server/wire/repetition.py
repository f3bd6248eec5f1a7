"""Messages that say the same as the one before but for a few numbers.

The headers of a loop's steps differ in the step's number, and take longer to read than a small
model's step takes. So what was read once is kept as it came, and compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, Union

from optserve._codec.framing import LENGTH, VARINT, Encoded, fields
from optserve.v1 import session_service_pb2 as pb
from optserve.v1.tensor_pb2 import Chunk

Tree = Mapping[int, Union["Tree", str]]
"""Tags of fields that matter: a name for its place, or the fields within it."""

_OPTIONS, _HEADER, _REQUEST = pb.StepOptions, pb.StepHeader, pb.StepStreamRequest
FIELDS: Tree = {
    _REQUEST.HEADER_FIELD_NUMBER << 3 | LENGTH: {
        _HEADER.OPTIONS_FIELD_NUMBER << 3 | LENGTH: {
            _OPTIONS.SEQUENCE_FIELD_NUMBER << 3 | VARINT: "sequence",
            _OPTIONS.EXPECTED_STEP_FIELD_NUMBER << 3 | VARINT: "expected_step",
        },
        _HEADER.GRADIENT_ID_FIELD_NUMBER << 3 | VARINT: "gradient_id",
    },
    _REQUEST.CHUNK_FIELD_NUMBER << 3 | LENGTH: {Chunk.DATA_FIELD_NUMBER << 3 | LENGTH: "data"},
}
"""What may differ in the messages of a loop: three numbers, and the gradient."""

NUMBERS = ("sequence", "expected_step", "gradient_id")


class Repetition:
    """The pattern of a step that goes in one message; made by `of`.

    Args:
        message: the bytes of one that was read, each of its fields at most once, up to its payload.
        size: how many it has.
        places: where what may differ lies in it: start and end by name.

    Attributes:
        payload: where the gradient starts, which ends with the message.
    """

    def __init__(self, message: Encoded, size: int, places: Mapping[str, tuple[int, int]]) -> None:
        self._size = size
        self.payload, _ = places.get("data", (self._size, self._size))
        numbers = [(places[name], index) for index, name in enumerate(NUMBERS) if name in places]
        self._numbers = [(start, stop, index) for (start, stop), index in sorted(numbers)]
        self._constant: list[tuple[Encoded, int]] = []
        end = 0
        for start, stop, _ in [*self._numbers, (self.payload, self._size, -1)]:
            self._constant.append((message[end:start], end))
            end = stop

    @classmethod
    def of(cls, message: Encoded, size: int) -> Self | None:
        """The pattern of a message; None where it is none of the plainest.

        Args:
            message: its bytes, or its first ones.
            size: how many it has.

        Raises:
            DecodeError: it is no message.
        """
        found: Found = {}
        try:
            _find(message, 0, size, FIELDS, found)
        except IndexError:  # the first bytes do not tell
            return None
        places = {name: of_name[0] for name, of_name in found.items()}
        payload, end = places.get("data", (size, size))
        once = all(len(of_name) == 1 for of_name in found.values())
        return cls(message, size, places) if once and end == size and payload <= len(message) else None

    def read(self, message: Encoded, size: int) -> tuple[int, int | None, int] | None:
        """What differs in a message that follows the pattern; None where it does not.

        Args:
            message: its bytes, or its first ones.
            size: how many it has.

        Returns:
            Its sequence, its expected step and its gradient's id; (0, None, 0) where it has none.
        """
        if size != self._size:
            return None
        for constant, start in self._constant:
            if not message.startswith(constant, start):
                return None
        found: list[Any] = [0, None, 0]
        for start, stop, index in self._numbers:
            # Of a varint's bytes the last one alone is below 0x80, and weighs most.
            value = message[stop - 1]
            for byte in message[start : stop - 1][::-1]:
                value = value << 7 | byte & 0x7F
                if byte < 0x80:
                    return None
            if message[stop - 1] > 0x7F or value >> 63:
                return None
            found[index] = value
        return found[0], found[1], found[2]


Found = dict[str, list[tuple[int, int]]]


def _find(message: Encoded, start: int, end: int, tree: Tree, found: Found) -> None:
    for tag, _, inner, stop in fields(message, start, end):
        within = tree.get(tag)
        if isinstance(within, str):
            found.setdefault(within, []).append((inner, stop))
        elif within is not None:
            _find(message, inner, stop, within, found)
