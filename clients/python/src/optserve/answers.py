"""The answers to streamed steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from google.protobuf.message import DecodeError

from optserve import errors
from optserve.contents import Contents
from optserve.dtypes import Array
from optserve.framing import LENGTH, VARINT, Framing, read_varint
from optserve.landing import Landing
from optserve.parameters import Parameters
from optserve.progress import Bar, Silent
from optserve.recycler import Recycler
from optserve.steps import StepResult
from optserve.v1 import session_service_pb2 as wire

RESPONSES = Framing(wire.StepStreamResponse)
RESULT = wire.StepStreamResponse.RESULT_FIELD_NUMBER << 3 | LENGTH
PARAMETERS = wire.StepStreamResponse.PARAMETERS_FIELD_NUMBER << 3 | LENGTH
STEP = bytes((wire.ParametersHeader.STEP_FIELD_NUMBER << 3 | VARINT,))
SILENT = Silent()

Lookup = Callable[[Contents, int], Parameters]
"""Gives the values of a step that an answer says are in shared memory."""


class Answers:
    """Reads the answers to a stream's steps, one after the other.

    From step to step, the header of the parameters says the same but for the step. It is
    compared as it came, and read when it differs.
    """

    def __init__(self) -> None:
        self._landing = Landing(Recycler())
        self._known: bytes | None = None
        self._contents = Contents(wire.ParametersHeader())

    def fills(self, into: Mapping[str, Array]) -> bool:
        """Whether the last answer filled these arrays."""
        return self._landing.fills(into)

    def read(
        self,
        received: Iterator[bytes],
        into: Mapping[str, Array] | None = None,
        bar: Bar = SILENT,
        lookup: Lookup | None = None,
    ) -> StepResult:
        """Reads one answer.

        Args:
            received: encoded messages.
            into: arrays to fill with the parameters; new ones when None.
            bar: is told of the bytes.
            lookup: where values in shared memory are found, if any may be there.

        Raises:
            grpc.RpcError: the stream failed.
            Unavailable: it ended too early.
            Internal: the answer makes no sense.
        """
        try:
            return self._read(received, into, bar, lookup)
        except DecodeError as error:
            raise errors.Internal("the answer is no message of this service") from error

    def _read(
        self, received: Iterator[bytes], into: Mapping[str, Array] | None, bar: Bar, lookup: Lookup | None
    ) -> StepResult:
        message = next(received, None)
        if message is None:
            raise errors.Unavailable("the stream ended before its answer")
        others, chunk = RESPONSES.split(message)
        # Fields that come twice are merged, which for messages is to put them behind each other.
        told = {RESULT: b""}
        for tag, _, inner, stop in others:
            told[tag] = told.get(tag, b"") + message[inner:stop]
        values = Parameters()
        if PARAMETERS in told:
            step = self._learn(told[PARAMETERS])
            if self._contents.shared and lookup is not None:
                return StepResult.of(wire.StepResult.FromString(told[RESULT]), lookup(self._contents, step))
            chunks = chain((chunk,), (RESPONSES.split(more)[1] for more in received))
            values = self._landing.take(self._contents, step, chunks, into, bar)
        return StepResult.of(wire.StepResult.FromString(told[RESULT]), values)

    def _learn(self, header: bytes) -> int:
        """Reads what is new in a header, and returns its step."""
        step, rest = 0, header
        if header[:1] == STEP:
            step, end = read_varint(header, 1, len(header))
            rest = header[end:]
        if rest != self._known:
            message = wire.ParametersHeader.FromString(header)
            self._contents = Contents(message)
            self._known = rest if message.step == step else None
            step = message.step
        return step
