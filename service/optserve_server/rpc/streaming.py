"""StepStream: a plan, then many steps, answered in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from grpc import aio

from optserve._codec.framing import ChunkAhead, ChunkView, Framing
from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import DomainError, Reason, within
from optserve_server.rpc.answers import Answers
from optserve_server.rpc.data_connection import Arriving, Message
from optserve_server.rpc.drain import Drain
from optserve_server.rpc.execution import Execution
from optserve_server.rpc.messages import Messages
from optserve_server.rpc.reading import UNREADABLE
from optserve_server.rpc.sharing import Sharing
from optserve_server.sessions.changes import StepChange
from optserve_server.sessions.guards import GRADIENT, REPLY
from optserve_server.sessions.regions import Region
from optserve_server.sessions.result import StepOptions
from optserve_server.sessions.session import Session, session_deleted
from optserve_server.sessions.step import Step
from optserve_server.sessions.stream_plan import StreamPlan
from optserve_server.storage.failpoints import passing
from optserve_server.wire import step_streams
from optserve_server.wire.chunks import Filler

Chunk = ChunkView | ChunkAhead
REQUESTS = Framing(pb.StepStreamRequest)


class StepStream:
    """One stream of steps.

    Args:
        find: returns the session of a resource name.
        execution: where steps are computed.
        drain: ends the stream between two steps when the server shuts down.
        chunk_bytes: bytes of an answer's chunks.
        sharing: shared memory that steps may be in.
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
        self._find, self._sharing = find, sharing
        self._execution, self._messages = execution, messages
        self._stated: pb.StepPlan | None = None
        self._plan: StreamPlan | None = None
        self._deleted = False
        self._answers = Answers(messages, chunk_bytes)
        task = asyncio.current_task()
        assert task is not None  # coroutines run in tasks
        self._interruptible = drain.interruptible(task)

    async def serve(self) -> None:
        """Takes every step of the stream and answers it.

        Raises:
            DomainError: the first error of any step.
        """
        try:
            while await self._serve_message():
                passing("after-ack")
            await self._answers.sent()
        except DomainError:
            # The steps before it are taken, and their answers may be on their way.
            await self._answers.sent()
            raise
        finally:
            self._answers.close()
            self._messages.close()
            self._drop_plan()

    async def _serve_message(self) -> bool:
        """Serves a plan, a step or a request for a data connection; False at the end of the stream."""
        with self._interruptible:
            message = await self._messages.read()
        if message is aio.EOF:
            return False
        begun = perf_counter_ns()
        request, chunk = await _decoded(message)
        if request.HasField("plan"):
            _check_alone(request, chunk, "plan")
            await self._serve_plan(request.plan)
        elif request.HasField("data_connection"):
            _check_alone(request, chunk, "data_connection")
            await self._answers.sent()
            await self._messages.connect(request.data_connection)
        elif request.HasField("step"):
            await self._serve_step(request.step, chunk, begun)
        else:
            text = "a message between two steps must have a plan, a step or a data_connection"
            raise DomainError(Reason.STREAM_PROTOCOL, text, field="step")
        return True

    async def _serve_plan(self, message: pb.StepPlan) -> None:
        await self._answers.sent()
        self._drop_plan()
        self._stated, self._deleted = message, False
        plan = self._resolved(message)
        if not plan.sparse_tensors and plan.region is None:
            # Kernels are compiled while the first gradient is on its way.
            reply = "" if plan.parameters is None else GRADIENT if plan.writes_in_place else REPLY
            await self._execution.in_thread(partial(plan.session.warm, plan.dtype, reply))
        await self._messages.write(step_streams.planned_to(plan).SerializeToString())

    def _resolved(self, message: pb.StepPlan) -> StreamPlan:
        """Checks a plan against its session and keeps it.

        Raises:
            DomainError: what is wrong with it; fields start at ``plan``.
        """
        with within("plan"):
            plan = step_streams.plan_from(message, self._find, self._sharing.region_of)
        plan.session.at_close[self] = self._on_close
        if plan.region is not None:
            plan.region.ended[self] = self._drop_plan
        self._plan = plan
        return plan

    def _current_plan(self) -> StreamPlan:
        """The stream's plan; checked anew if its session was updated, or evicted and is back."""
        plan = self._plan
        if plan is not None and plan.is_current:
            return plan
        if self._stated is None:
            text = "a stream must begin with a plan"
            raise DomainError(Reason.STREAM_PROTOCOL, text, field="plan")
        if self._deleted:
            raise session_deleted(self._stated.session, "plan.session")
        self._drop_plan()
        return self._resolved(self._stated)

    def _on_close(self) -> None:
        """Drops what belongs to a session that was deleted or evicted; the stream may be idle."""
        self._deleted = self._plan is not None and not self._plan.session.away
        self._drop_plan()

    def _drop_plan(self) -> None:
        plan, self._plan = self._plan, None
        if plan is not None:
            plan.session.at_close.pop(self, None)
            if plan.region is not None:
                plan.region.ended.pop(self, None)
        self._answers.forget()

    async def _serve_step(self, start: pb.StepStart, chunk: Chunk | None, begun: int) -> None:
        plan = self._current_plan()
        try:
            options = step_streams.options_from(start, plan)
            step = await self._received(plan, start, options, chunk)
            self._execution.meters.receive.add(perf_counter_ns() - begun)
            await self._take(plan, step)
        except DomainError as error:
            _locate(error)
            raise

    async def _received(
        self, plan: StreamPlan, start: pb.StepStart, options: StepOptions, chunk: Chunk | None
    ) -> Step:
        """A step whose gradient is complete."""
        session = plan.session
        if plan.sparse_tensors or start.row_indices:
            session.admit(options)
            arriving = plan.rows(step_streams.row_indices_from(start.row_indices, plan), start.byte_count)
            await self._fill(arriving.buffer, chunk)
            # To put rows into their places may take a while.
            stage = partial(session.staged, arriving)
            staging = stage() if session.is_small else await self._execution.in_thread(stage)
            return Step(session, staging, options)
        plan.check_byte_count(start.byte_count)
        staging = plan.staging(busy=self._answers.busy)
        step = Step(session, staging, options)
        if plan.region is not None:
            if chunk is not None:
                text = "a step whose gradient is in shared memory must not have a chunk"
                raise DomainError(Reason.STREAM_PROTOCOL, text, field="chunk")
            return step
        size = staging.byte_count
        if chunk is not None and not chunk.byte_offset and chunk.byte_count == size:
            place = staging.buffer.data
            if isinstance(chunk, ChunkView):
                place[:] = chunk.data
            else:
                await _receive(chunk, place)
        elif size:
            session.admit(options)  # before more messages are awaited
            await self._fill(staging.buffer, chunk, step.received)
        return step

    async def _fill(
        self,
        buffer: npt.NDArray[np.uint8],
        chunk: Chunk | None,
        on_progress: Callable[[int], object] | None = None,
    ) -> None:
        """Reads until a gradient is complete; ``on_progress`` is called with the bytes that are there."""
        filler = Filler(buffer)
        await _put(filler, chunk)
        while not filler.whole:
            if on_progress is not None:
                on_progress(filler.filled)
            message = await self._messages.read()
            if message is aio.EOF:
                raise filler.truncated()
            request, chunk = await _decoded(message)
            for field in ("step", "plan", "data_connection"):
                if request.HasField(field):
                    raise filler.interrupted(field)
            await _put(filler, chunk)

    async def _take(self, plan: StreamPlan, step: Step) -> None:
        """Takes a step and answers it."""
        answers = self._answers
        if answers.are_under_way:
            await answers.sent()
        change = StepChange(step)
        if plan.region is not None:
            encode = partial(_answer_in_memory, region=plan.region, pulls=plan.pull is not None)
            await self._messages.write(await self._execution.commit(plan.session, change, encode))
            return
        reply = plan.reply(step.staging)
        answer = answers.begin(reply)
        commit = partial(Step.commit, reply=reply, progress=answer)
        await self._execution.commit(plan.session, change, commit)
        finishing = perf_counter_ns()
        await answers.finish(answer)
        self._execution.meters.answer.add(perf_counter_ns() - finishing)


def _answer_in_memory(step: Step, *, region: Region, pulls: bool) -> bytes:
    """Applies a step whose parameters are in shared memory; returns the encoded answer."""
    result = step.commit()
    if not pulls or region.key is None:
        return step_streams.answer_head_to(result, 0)
    values = region.values  # dropped if the client has gone meanwhile
    if values is not None:
        region.session.values(*region.key, values)
    change = 0 if region.live is None else region.live.change
    return step_streams.answer_head_to(result, region.session.step, change)


async def _decoded(message: Message) -> tuple[pb.StepStreamRequest, Chunk | None]:
    """A message, and its chunk, which stays where it was received or is still on its way."""
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
    """Puts a chunk into its place."""
    if isinstance(chunk, ChunkAhead):
        await _receive(chunk, filler.place(chunk))
    else:
        filler.add(chunk)


async def _receive(chunk: ChunkAhead, place: memoryview) -> None:
    """Receives a chunk that is still on its way straight into its place."""
    here = len(chunk.here)
    place[:here] = chunk.here
    await chunk.rest(place[here:])


def _check_alone(request: pb.StepStreamRequest, chunk: Chunk | None, field: str) -> None:
    """Rejects other fields beside ``field``."""
    if chunk is not None or len(request.ListFields()) > 1:
        raise DomainError(Reason.STREAM_PROTOCOL, f"{field} must be the only field set", field=field)


def _locate(error: DomainError) -> None:
    """Names the field of a step's error as the stream has it: what a unary step calls options is ``step``."""
    field = error.field or ""
    if field == "options" or field.startswith("options."):
        error.field = "step" + field.removeprefix("options")
    elif field.startswith(("byte_count", "gradient_id", "row_indices", "overrides")):
        error.field = f"step.{field}"
