"""StepStream: many steps over one stream, answered in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from grpc import aio

from optserve.framing import ChunkAhead, ChunkView, Framing
from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import DomainError, Reason, within
from optserve_server.rpc.answers import Answers
from optserve_server.rpc.data_connection import Arriving, Message, opening
from optserve_server.rpc.drain import Drain
from optserve_server.rpc.execution import Execution
from optserve_server.rpc.headers import Header, Headers
from optserve_server.rpc.loop import Loop, Taken
from optserve_server.rpc.messages import Messages
from optserve_server.rpc.reading import UNREADABLE
from optserve_server.rpc.sharing import SharedAnswer, Sharing
from optserve_server.sessions.guards import GRADIENT, REPLY
from optserve_server.sessions.incoming import Incoming
from optserve_server.sessions.prepared import PreparedStep
from optserve_server.sessions.reading import Reply
from optserve_server.sessions.result import StepOptions
from optserve_server.sessions.session import Session
from optserve_server.sessions.staging import Staging
from optserve_server.storage.failpoints import passing
from optserve_server.wire.chunks import Filler

CHANCES = 3
"""Steps in a row after which a stream whose steps have each to be looked at is known to be such."""

Chunk = ChunkView | ChunkAhead
REQUESTS = Framing(pb.StepStreamRequest)


def _unheard(byte_count: int) -> None:
    """What is told where nobody listens."""


class StepStream:
    """One stream of steps.

    Args:
        find: gives the session of a resource name.
        execution: where steps are computed.
        drain: ends the stream between two steps when the server shuts down.
        chunk_bytes: how many bytes an answer's chunks hold.
        sharing: memory that steps may lie in.
        messages: what the client sends, and where answers go.
    """

    def __init__(
        self,
        find: Callable[[str], Session],
        execution: Execution,
        drain: Drain,
        chunk_bytes: int,
        sharing: Sharing,
        messages: Messages,
    ) -> None:
        self._execution, self._messages = execution, messages
        self._headers = Headers(find, sharing)
        self._buffers = _Buffers()
        self._met: Header | None = None
        self._answers = Answers(messages, chunk_bytes)
        task = asyncio.current_task()
        assert task is not None  # coroutines run in tasks
        self._interruptible = drain.interruptible(task)
        self._loop: Loop | None = None
        self._chances = CHANCES

    async def serve(self) -> None:
        """Takes every step of the stream and answers it.

        Raises:
            DomainError: the first error of any step.
        """
        try:
            while await self._step():
                passing("after-ack")
            await self._answers.sent()
        except DomainError:
            # The steps before it are taken, and their answers may be on their way.
            await self._answers.sent()
            raise
        finally:
            self._answers.close()
            self._messages.close()
            self._forget()

    async def _step(self) -> bool:
        """Takes one step, if there is one. Its names end with it: what waits for a step holds no session."""
        with self._interruptible:
            message = await self._messages.read()
        if message is aio.EOF:
            return False
        answer = None if self._loop is None else await self._loop.take(message)
        if answer is None:
            await self._look_at(message)
        else:
            await self._messages.write(answer)
        return True

    async def _look_at(self, message: Message) -> None:
        """Takes a step that may be any."""
        begun = perf_counter_ns()
        request, chunk = await _decoded(message)
        if request.HasField("data_connection"):
            if chunk is not None or request.HasField("header"):
                raise DomainError(
                    Reason.STREAM_PROTOCOL, "beside it stands another field", field="data_connection"
                )
            await self._answers.sent()
            await self._messages.connect(request.data_connection)
            return
        if not request.HasField("header"):
            raise DomainError(Reason.STREAM_PROTOCOL, "a step begins with a header", field="header")
        with within("header"):
            header, options = self._headers.read(request.header)
        again = header is self._met
        if not again:
            await self._meet(header)
        incoming = await self._received(header, options, chunk)
        self._execution.meters.receive.add(perf_counter_ns() - begun)
        reply = await self._take(header, incoming)
        # Its session may have been deleted while the answer was sent: then nothing is kept of it.
        if again and header is self._met and not header.rows and self._chances:
            where = header.region, header.pull is not None
            taken = Taken(*opening(message), header.session, incoming.staging, options, reply, *where)
            self._loop = Loop.of(taken, self._execution)
            self._chances = CHANCES if self._loop is not None else self._chances - 1

    async def _meet(self, header: Header) -> None:
        """Has the kernels of a stream's steps compiled, while its first gradient is on its way."""
        if not header.rows and header.region is None:
            reply = "" if header.pull is None else GRADIENT if header.in_place else REPLY
            await self._execution.in_thread(partial(header.session.warm, header.dtype, reply))
        self._leave()
        self._chances = CHANCES
        if not header.session.closed:
            self._met = header
            header.session.at_close[self] = self._forget
            if header.region is not None:
                header.region.hold(self, self._forget)

    def _leave(self) -> None:
        """Ends what belongs to the last header."""
        self._loop = None
        if self._met is not None:
            self._met.session.at_close.pop(self, None)
            if self._met.region is not None:
                self._met.region.release(self)
        self._met = None

    def _forget(self) -> None:
        """Lets go of a session, which may be deleted while its stream is idle, and of its buffers."""
        self._leave()
        self._headers.forget()
        self._buffers.forget()
        self._answers.forget()

    async def _received(self, header: Header, options: StepOptions, chunk: Chunk | None) -> Incoming:
        """The gradient of a step, whole."""
        session = header.session
        if header.region is not None:
            return Incoming.whole(session, header.region.staging, options)
        with within("header"):
            if not header.rows:
                incoming = Incoming(session, self._buffers.gradient(header, self._answers.busy), options)
            else:
                arriving = session.stage_rows(header.tensors or (), header.rows, header.dtype)
        if not header.rows:
            await self._fill(incoming.staging.buffer, chunk, incoming.reached)
            return incoming
        await self._fill(arriving.buffer, chunk)
        # To put rows into their places may take a while.
        stage = partial(session.staged, arriving)
        staging = stage() if session.is_small else await self._execution.in_thread(stage)
        return Incoming.whole(session, staging, options)

    async def _fill(
        self, buffer: npt.NDArray[np.uint8], chunk: Chunk | None, reached: Callable[[int], object] = _unheard
    ) -> None:
        """Reads until a gradient is whole, and tells after each message how much of it is there."""
        filler = Filler(buffer)
        await _put(filler, chunk)
        while not filler.whole:
            reached(filler.filled)
            message = await self._messages.read()
            if message is aio.EOF:
                raise filler.truncated()
            request, chunk = await _decoded(message)
            if request.HasField("header") or request.HasField("data_connection"):
                raise filler.interrupted()
            await _put(filler, chunk)
        reached(filler.filled)

    async def _take(self, header: Header, incoming: Incoming) -> Reply | None:
        """Takes a step and answers it; the values that are sent back."""
        await self._answers.sent()
        session, region = header.session, header.region
        with _IN_HEADER:
            if region is not None and (header.pull is None or region.holds(header.pull)):
                answer = SharedAnswer(region, told=header.pull is not None)
                encoded = await self._execution.take(
                    session, incoming, lambda step: answer.encode(step.commit())
                )
                await self._messages.write(encoded)
                return None
            reply = self._buffers.reply(header, incoming.staging)
            progress = self._answers.begin(reply, inline=self._execution.inline(session, incoming))
            commit = partial(PreparedStep.commit, reply=reply, progress=progress)
            await self._execution.take(session, incoming, commit)
        finishing = perf_counter_ns()
        await self._answers.finish(progress)
        self._execution.meters.answer.add(perf_counter_ns() - finishing)
        return reply


class _Buffers:
    """Stagings that equal steps share: fresh memory costs more than the copy into it."""

    def __init__(self) -> None:
        self._key: object = None
        self._gradients: list[Staging] = []
        self._values: Staging | None = None
        self._used = 0

    def forget(self) -> None:
        """Lets go of them."""
        self._key, self._gradients, self._values, self._used = None, [], None, 0

    def gradient(self, header: Header, busy: bool) -> Staging:
        """Where a step's gradient goes.

        Args:
            header: of the step.
            busy: whether the answer before is still being sent, maybe out of the last buffer.
        """
        key = (header.session, header.tensors, header.dtype, header.pull)
        if self._key != key:
            self.forget()
            self._key = key
        elif busy and header.in_place:
            self._used = 1 - self._used
        while len(self._gradients) <= self._used:
            self._gradients.append(header.session.stage(header.tensors, header.dtype))
        return self._gradients[self._used]

    def reply(self, header: Header, gradient: Staging) -> Reply | None:
        """Where the values go: into the gradient's own place where they fit there."""
        if header.pull is None:
            return None
        if header.in_place:
            return Reply(header.pull.point, gradient)
        if self._values is None:
            self._values = header.session.stage(header.pull.tensors, header.pull.dtype)
        return Reply(header.pull.point, self._values)


async def _decoded(message: Message) -> tuple[pb.StepStreamRequest, Chunk | None]:
    try:
        if isinstance(message, Arriving):
            known = REQUESTS.ahead(message.head, message.size, message.rest)
            if known is not None:
                others, chunk = known
                return REQUESTS.message(message.head, others), chunk
            message = await message.whole()
        framed = REQUESTS.decode(message)
    except (DecodeError, ValueError) as error:
        raise DomainError(Reason.MALFORMED_MESSAGE, UNREADABLE) from error
    return framed.message, framed.chunk


async def _put(filler: Filler, chunk: Chunk | None) -> None:
    """Puts a chunk into its place, to which it comes straight where it is still on its way."""
    if not isinstance(chunk, ChunkAhead):
        filler.add(chunk)
        return
    place, here = filler.place(chunk), len(chunk.here)
    place[:here] = chunk.here
    await chunk.rest(place[here:])


class _InHeader(contextlib.AbstractContextManager[None]):
    """Options and rows stand in the header here; the gradient's bytes do not."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DomainError) and (error.field or "").startswith(
            ("options.", "sparse_gradients")
        ):
            error.field = f"header.{error.field}"


_IN_HEADER = _InHeader()
