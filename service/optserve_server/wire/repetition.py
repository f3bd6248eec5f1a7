"""Messages that say the same as the one before but for a few numbers.

The headers of a loop's steps differ in the step's number, and take longer to read than a small
model's step takes. So what was read once is kept as it came, and compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self, Union

from google.protobuf.message import DecodeError

from optserve.framing import LENGTH, VARINT, fields, read_varint
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


class Repeated(NamedTuple):
    """What differs in a message.

    Attributes:
        sequence: 0 where it states none.
        expected_step: None where it states none.
        gradient_id: 0 where it states none.
    """

    sequence: int = 0
    expected_step: int | None = None
    gradient_id: int = 0


class Repetition:
    """The pattern of a step that goes in one message; made by `of`.

    Args:
        message: the bytes of one that was read, each of its fields at most once.
        places: where what may differ lies in it: start and end by name.

    Attributes:
        payload: where the gradient starts, which ends with the message.
    """

    def __init__(self, message: bytes, places: Mapping[str, tuple[int, int]]) -> None:
        self._size = len(message)
        self.payload, _ = places.get("data", (self._size, self._size))
        self._numbers = {name: place for name, place in places.items() if name != "data"}
        self._constant: list[tuple[int, bytes]] = []
        start = 0
        for low, high in sorted([*self._numbers.values(), (self.payload, self._size)]):
            self._constant.append((start, message[start:low]))
            start = high

    @classmethod
    def of(cls, message: bytes) -> Self | None:
        """The pattern of a message; None where it is none of the plainest.

        Raises:
            DecodeError: it is no message.
        """
        found: dict[str, list[tuple[int, int]]] = {}
        _find(message, 0, len(message), FIELDS, found)
        places = {name: of_name[0] for name, of_name in found.items()}
        at_the_end = places.get("data", (0, len(message)))[1] == len(message)
        once = all(len(of_name) == 1 for of_name in found.values())
        return cls(message, places) if once and at_the_end else None

    def read(self, message: bytes) -> Repeated | None:
        """What differs in a message that follows the pattern; None where it does not."""
        if len(message) != self._size:
            return None
        for start, constant in self._constant:
            if not message.startswith(constant, start):
                return None
        numbers = {}
        try:
            for name, (start, end) in self._numbers.items():
                numbers[name], stop = read_varint(message, start, end)
                if stop != end or numbers[name] >> 63:
                    return None
        except DecodeError:
            return None
        return Repeated(**numbers)


def _find(message: bytes, start: int, end: int, tree: Tree, found: dict[str, list[tuple[int, int]]]) -> None:
    for tag, _, inner, stop in fields(message, start, end):
        within = tree.get(tag)
        if isinstance(within, str):
            found.setdefault(within, []).append((inner, stop))
        elif within is not None:
            _find(message, inner, stop, within, found)
