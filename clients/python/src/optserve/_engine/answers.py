"""The answers to streamed steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from google.protobuf.message import DecodeError

from optserve import errors
from optserve._codec.buffer_pool import Recycler
from optserve._codec.dtypes import Array
from optserve._codec.framing import VARINT, ChunkAhead, ChunkView, Encoded, Field, Framing, read_varint
from optserve._codec.parameters_header import Contents
from optserve._codec.receive_buffers import Landing
from optserve._engine.results import StepResult
from optserve._transport.data_connection import Arriving, Message
from optserve.answer_form import PARAMETERS, RESULT, AnswerForm, learned
from optserve.parameters import Parameters
from optserve.progress import Bar, Silent
from optserve.v1 import session_service_pb2 as wire

RESPONSES = Framing(wire.StepStreamResponse)
STEP = bytes((wire.ParametersHeader.STEP_FIELD_NUMBER << 3 | VARINT,))
SILENT = Silent()

Into = Mapping[str, Array] | None
Lookup = Callable[[Contents, int, int, Into], Parameters]
"""Gives values that an answer says are in shared memory: the contents, step and change it states."""
FORMS = 8
"""How many forms of answers are known at once."""


class Answers:
    """Reads the answers to a stream's steps, one after the other.

    From step to step, the header of the parameters says the same but for the step. It is
    compared as it came, and read when it differs. What `AnswerForm` says of an answer in one
    message is kept, by its length, for `again`.
    """

    def __init__(self) -> None:
        self._landing = Landing(Recycler())
        self._known: bytes | None = None
        self._contents = Contents(wire.ParametersHeader())
        self._forms: dict[int, AnswerForm] = {}

    def again(self, received: Message, into: Into, lookup: Lookup | None) -> StepResult | None:
        """Reads an answer that is written like an earlier one.

        Args:
            received: its first message, encoded.
            into: arrays to fill with the parameters; new ones when None.
            lookup: as for `read`.

        Returns:
            None where it is not, and `read` is to read it.
        """
        if isinstance(received, Arriving):  # which a form is not for
            return None
        form = self._forms.get(len(received))
        head = None if form is None else form.matching(received)
        if form is None or head is None:
            return None
        contents = form.contents
        if contents is None:
            values = Parameters()
        elif not contents.shared:
            values = self._landing.whole(contents, form.step(head), received, form.data, into)
        elif lookup is not None:
            values = lookup(contents, form.step(head), form.change(head), into)
        else:
            return None
        return StepResult.unread(form, head, values)

    def read(
        self,
        received: Iterator[Message],
        into: Into = None,
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

    def _read(self, received: Iterator[Message], into: Into, bar: Bar, lookup: Lookup | None) -> StepResult:
        message = next(received, None)
        if message is None:
            raise errors.Unavailable("the stream ended before its answer")
        known, others, chunk = _split(message)
        # Fields that come twice are merged, which for messages is to put them behind each other.
        told = {RESULT: b""}
        for tag, _, inner, stop in others:
            told[tag] = told.get(tag, b"") + known[inner:stop]
        values, contents = Parameters(), None
        if PARAMETERS in told:
            step, contents = self._learn(told[PARAMETERS]), self._contents
            if contents.shared and lookup is not None:
                values = lookup(contents, step, contents.change, into)
            else:
                chunks = chain((chunk,), (_split(more)[2] for more in received))
                values = self._landing.take(contents, step, chunks, into, bar)
        result = StepResult.of(wire.StepResult.FromString(told[RESULT]), values)
        self._keep_form(message, result, contents)
        return result

    def _keep_form(self, message: Message, result: StepResult, contents: Contents | None) -> None:
        if isinstance(message, Arriving):
            return
        form = learned(message, result, contents)
        if form is not None:
            if len(self._forms) == FORMS:
                self._forms.clear()
            self._forms[len(message)] = form

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


def _split(message: Message) -> tuple[Encoded, list[Field], ChunkView | ChunkAhead | None]:
    """Bytes of a message that hold its fields but for the chunk, where these are, and the chunk."""
    if isinstance(message, Arriving):
        known = RESPONSES.ahead(message.head, message.size, message.rest)
        if known is not None:
            return message.head, *known
        message = message.whole()
    return message, *RESPONSES.split(message)
