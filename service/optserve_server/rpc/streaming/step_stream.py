"""StepStream: a plan, then many steps, answered in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns

from grpc import aio

from optserve._codec.framing import ChunkAhead, ChunkView
from optserve.v1 import session_service_pb2 as pb
from optserve_server.coordination.contribution import Contribution
from optserve_server.coordination.uploads import NOTHING
from optserve_server.errors import DomainError, Reason, within
from optserve_server.programs.step_programs import GRADIENT, REPLY
from optserve_server.rpc.context import calls
from optserve_server.rpc.context.drain import Drain
from optserve_server.rpc.execution.coordination import Coordination
from optserve_server.rpc.execution.execution import Execution
from optserve_server.rpc.streaming.memory_sharing import MemorySharing
from optserve_server.rpc.streaming.step_answers import StepAnswers
from optserve_server.rpc.streaming.stream_messages import Chunk, StreamMessages
from optserve_server.rpc.transport.data_connection import Message, ReceivedMessage
from optserve_server.sessions.session import Session
from optserve_server.shared_memory.regions import Region
from optserve_server.state.session_state import session_deleted_error
from optserve_server.state.step_result import StepOptions, StepResult
from optserve_server.stepping.step import Step
from optserve_server.stepping.step_plan import StepPlan, wrong_byte_count_error
from optserve_server.storage import failpoints
from optserve_server.wire.fields.chunks import Filler
from optserve_server.wire.messages import steps
from optserve_server.wire.messages.steps import Pieces, encode_answer

NO_MESSAGES: Sequence[Pieces] = ()
"""Messages of an answer that was sent, or is being sent."""


class StepStream:
    """One stream of steps.

    Args:
        find: returns the session of a resource name.
        execution: where steps are computed.
        drain: ends the stream between two steps when the server shuts down.
        chunk_bytes: bytes of an answer's chunks.
        sharing: shared memory that steps may be in.
        messages: what the client sends, and where answers go.
        coordination: makes the steps of members.
    """

    def __init__(
        self,
        find: Callable[[str], Session],
        execution: Execution,
        drain: Drain,
        chunk_bytes: int,
        sharing: MemorySharing,
        messages: StreamMessages,
        coordination: Coordination,
    ) -> None:
        self._coordination = coordination
        self._find, self._sharing = find, sharing
        self._execution, self._messages, self._drain = execution, messages, drain
        self._meters = execution.meters
        self._turns, self._flow = execution.turns, calls.current_namespace().budget
        self._stated: pb.StepPlan | None = None
        self._plan: StepPlan[Session] | None = None
        self._deleted = False
        self._answers, self._chunk_bytes = StepAnswers(messages, chunk_bytes), chunk_bytes

    async def serve(self) -> None:
        """Takes every step of the stream and answers it.

        Raises:
            DomainError: the first error of any step.
        """
        messages, drain, respond = self._messages, self._drain, self._execution.meters.respond
        try:
            with drain.make_interruptible() as wait:
                while (message := await messages.read()) is not aio.EOF:
                    wait.is_idle = False
                    if self._turns.alone is not self._flow:
                        await self._wait_for_turn(message)
                    answer = await self._serve_message(message)
                    if answer:
                        begun = perf_counter_ns()
                        for pieces in answer:
                            await messages.write_pieces(pieces)
                        respond.add_duration(perf_counter_ns() - begun)
                        if self._plan is not None:
                            self._plan.session.prepare_next_step()
                    if failpoints.armed:
                        failpoints.hit_failpoint("after-ack")
                    wait.is_idle = True
                    if drain.draining:
                        drain.reject_if_draining()
            await self._answers.wait_until_sent()
        except DomainError:
            # The steps before it are taken, and their answers may be on their way.
            await self._answers.wait_until_sent()
            raise
        finally:
            self._answers.close()
            messages.close()
            self._drop_plan()

    async def _wait_for_turn(self, message: Message) -> None:
        size = message.size if isinstance(message, ReceivedMessage) else len(message)
        turn = self._turns.take(self._flow, size)
        if turn is not None:
            await turn

    async def _serve_message(self, message: Message) -> Sequence[Pieces]:
        """Serves a plan, a step or a request for a data connection.

        Returns:
            The answer's messages, encoded, in pieces; none if it was sent, or is being sent.
        """
        begun = perf_counter_ns()
        plan = self._plan
        likely = 0 if plan is None else plan.byte_count
        request, chunk = await self._messages.decode_message(message, likely)
        if request.HasField("step"):
            return await self._serve_step(request, chunk, begun)
        if request.HasField("plan"):
            _check_only_field(request, chunk, "plan")
            await self._serve_plan(request.plan)
            return NO_MESSAGES
        if request.HasField("data_connection"):
            _check_only_field(request, chunk, "data_connection")
            await self._answers.wait_until_sent()
            await self._messages.switch_to_data_connection(request.data_connection)
            return NO_MESSAGES
        if chunk is not None:
            text = "a chunk must follow a step whose bytes are not complete"
            raise DomainError(Reason.STREAM_PROTOCOL, text, field="chunk")
        text = "a message between two steps must have a plan, a step or a data_connection"
        raise DomainError(Reason.STREAM_PROTOCOL, text, field="step")

    async def _serve_plan(self, message: pb.StepPlan) -> None:
        await self._answers.wait_until_sent()
        self._drop_plan()
        self._stated, self._deleted = message, False
        plan = await self._resolve_plan(message)
        if not plan.sparse_tensors and plan.region is None:
            # Kernels are compiled while the first gradient is on its way.
            reply = "" if plan.parameters is None else GRADIENT if plan.writes_in_place else REPLY
            await self._execution.in_thread(partial(plan.session.compile_kernels, plan.dtype, reply))
        count = len(plan.session.layout.entries)
        answer = await self._execution.run_or_offload(count, partial(steps.plan_answer_to, plan))
        await self._messages.write_pieces((answer,))

    async def _resolve_plan(self, message: pb.StepPlan) -> StepPlan[Session]:
        """Checks a plan against its session and keeps it.

        Raises:
            DomainError: what is wrong with it; fields start at ``plan``.
        """
        with within("plan"):
            session = steps.find_plan_session(message, self._find)
            make = partial(steps.plan_from, message, session, self._sharing.find_region)
            plan = await self._execution.run_or_offload(len(session.layout.entries), make)
        if not plan.is_current:  # the session was updated, deleted or evicted meanwhile
            return await self._resolve_plan(message)
        if plan.region is not None:
            with within("plan"):
                self._sharing.find_region(session, message.region)  # it may have been dropped meanwhile
        calls.note_worker(message.worker)
        plan.session.on_close[self] = self._on_close
        if plan.region is not None:
            plan.region.hold(self, self._drop_plan)
        self._plan = plan
        return plan

    async def _renew_plan(self) -> StepPlan[Session]:
        """The stream's plan, checked again: its session was updated, or evicted and is back.

        Raises:
            DomainError: STREAM_PROTOCOL if there is none, SESSION_NOT_FOUND, or what is wrong with it.
        """
        if self._stated is None:
            text = "a stream must begin with a plan"
            raise DomainError(Reason.STREAM_PROTOCOL, text, field="plan")
        if self._deleted:
            raise session_deleted_error(self._stated.session, "plan.session")
        self._drop_plan()
        return await self._resolve_plan(self._stated)

    def _on_close(self) -> None:
        """Drops what belongs to a session that was deleted or evicted; the stream may be idle."""
        self._deleted = self._plan is not None and not self._plan.session.away
        self._drop_plan()

    def _drop_plan(self) -> None:
        plan, self._plan = self._plan, None
        if plan is not None:
            plan.session.on_close.pop(self, None)
            if plan.region is not None:
                plan.region.release(self)
        self._answers.release_buffer()

    async def _serve_step(
        self, request: pb.StepStreamRequest, chunk: Chunk | None, begun: int
    ) -> Sequence[Pieces]:
        if request.HasField("plan") or request.HasField("data_connection"):
            _check_only_field(request, chunk, "plan" if request.HasField("plan") else "data_connection")
        plan = self._plan
        if plan is None or not plan.is_current:
            plan = await self._renew_plan()
        try:
            start = request.step
            options = steps.options_from(start, plan)
            step = await self._receive_step(plan, start, options, chunk)
            if self._answers.sending_task is not None:
                await self._answers.wait_until_sent()
            self._meters.receive.add_duration(perf_counter_ns() - begun)
            if plan.region is not None:
                return await self._commit_shared_memory_step(plan, plan.region, step)
            return await self._commit_step(plan, step)
        except DomainError as error:
            _rename_error_field(error)
            raise

    async def _receive_step(
        self, plan: StepPlan[Session], start: pb.StepStart, options: StepOptions, chunk: Chunk | None
    ) -> Step:
        """A step whose gradient is complete."""
        session, kind = plan.session, Step if options.member is None else Contribution
        byte_count = start.byte_count
        if plan.sparse_tensors or start.row_indices:
            session.admit_step(options)
            arriving = plan.make_sparse_staging(steps.row_indices_from(start.row_indices, plan), byte_count)
            await self._receive_gradient(Filler(arriving.buffer), chunk)
            # To put rows into their places may take a while.
            stage = arriving.make_staging
            staging = stage() if session.is_small else await self._execution.in_thread(stage)
            return kind(session, staging, options)
        if byte_count != plan.byte_count:
            raise wrong_byte_count_error(byte_count, plan.byte_count)
        if session.is_small:
            step = kind(session, plan.get_gradient_staging(self._answers), options)
        else:  # the first step of a plan makes its buffers, and every step looks at all tensors
            step = await self._execution.run_or_offload(
                len(session.layout.entries),
                lambda: kind(session, plan.get_gradient_staging(self._answers), options),
            )
        if plan.region is not None:
            if chunk is not None:
                text = "a step whose gradient is in shared memory must not have a chunk"
                raise DomainError(Reason.STREAM_PROTOCOL, text, field="chunk")
        elif isinstance(chunk, ChunkView) and len(chunk.data) == byte_count and not chunk.byte_offset:
            step.staging.data[:] = chunk.data
        elif byte_count or chunk is not None:
            session.admit_step(options)  # before more bytes are awaited
            await self._receive_resumable_gradient(session, Filler(step.staging.buffer), start, step, chunk)
        return step

    async def _receive_resumable_gradient(
        self, session: Session, filler: Filler, start: pb.StepStart, step: Step, chunk: Chunk | None
    ) -> None:
        """Reads until a gradient is complete; if the stream breaks off, keeps what has arrived."""
        uploads, worker = session.coordinator.uploads, step.options.worker
        if start.resume_from:
            upload = uploads.find_upload(worker)
            known = upload if upload.upload_id == start.upload_id else NOTHING
            filler.resume_with(known.received, start.resume_from)
        try:
            await self._receive_gradient(filler, chunk, step.on_received)
        except BaseException:
            member = step.options.member
            if start.upload_id and member and session.coordinator.membership.is_member(worker, member.epoch):
                uploads.store_received(worker, start.upload_id, filler.received)  # the plan's buffer: it ends
            raise
        uploads.drop_upload(worker)

    async def _receive_gradient(
        self, filler: Filler, chunk: Chunk | None, on_progress: Callable[[int], object] | None = None
    ) -> None:
        """Reads until a gradient is complete; ``on_progress`` is called with the bytes that are there."""
        await _receive_chunk(filler, chunk)
        while not filler.is_complete:
            if on_progress is not None:
                on_progress(filler.filled)
            message = await self._messages.read()
            if message is aio.EOF:
                raise filler.truncation_error()
            if self._turns.alone is not self._flow:
                await self._wait_for_turn(message)
            request, chunk = await self._messages.decode_message(message)
            for field in ("step", "plan", "data_connection"):
                if request.HasField(field):
                    raise filler.interruption_error(field)
            await _receive_chunk(filler, chunk)

    async def _commit_step(self, plan: StepPlan[Session], step: Step) -> Sequence[Pieces]:
        """Takes a step whose parameters are sent."""
        session, reply = plan.session, plan.make_reply(step.staging)
        if isinstance(step, Contribution):
            result = await self._coordination.contribute(session, step, reply)
            return encode_answer(result, reply, self._chunk_bytes)
        if session.is_small or step.is_brief:
            commit = partial(Step.commit, reply=reply)
            result = await self._execution.commit(session, step, commit, calls.current.get())
            return encode_answer(result, reply, self._chunk_bytes)
        answer = self._answers.make_answer(reply)
        commit = partial(Step.commit, reply=reply, progress=answer)
        await self._execution.commit(session, step, commit, calls.current.get())
        self._answers.measure_sending(self._execution.meters.respond)
        return NO_MESSAGES

    async def _commit_shared_memory_step(
        self, plan: StepPlan[Session], region: Region, step: Step
    ) -> Sequence[Pieces]:
        """Takes a step whose parameters are in shared memory."""
        if isinstance(step, Contribution):
            result = await self._coordination.contribute(plan.session, step, None)
            read = partial(_copy_parameters_to_region, region, plan, result)
            return ((steps.encode_answer_head(*await self._execution.run_exclusively(plan.session, read)),),)

        def commit(step: Step) -> tuple[StepResult, int, int]:
            return _copy_parameters_to_region(region, plan, step.commit())

        answer = await self._execution.commit(plan.session, step, commit, calls.current.get())
        return ((steps.encode_answer_head(*answer),),)


def _copy_parameters_to_region(
    region: Region, plan: StepPlan[Session], result: StepResult
) -> tuple[StepResult, int, int]:
    """Puts the parameters after a step into shared memory.

    Returns:
        The result, the parameters' step, and how many changes they are the outcome of.
    """
    if plan.pull is None or region.key is None:
        return result, 0, 0
    values = region.values  # dropped if the client has gone meanwhile
    if values is not None:
        plan.session.read_values(*region.key, values)
    return result, plan.session.step, 0 if region.live is None else region.live.change_count


async def _receive_chunk(filler: Filler, chunk: Chunk | None) -> None:
    """Puts a chunk into its place."""
    if isinstance(chunk, ChunkAhead):
        place = filler.reserve_place(chunk)
        try:
            await _receive_chunk_ahead(chunk, place)
        except BaseException:
            filler.discard_chunk(chunk)
            raise
    else:
        filler.add_chunk(chunk)


async def _receive_chunk_ahead(chunk: ChunkAhead, place: memoryview) -> None:
    """Receives a chunk that is still on its way straight into its place."""
    here = len(chunk.received)
    place[:here] = chunk.received
    await chunk.receive_rest(place[here:])


def _check_only_field(request: pb.StepStreamRequest, chunk: Chunk | None, field: str) -> None:
    """Rejects other fields beside ``field``."""
    if chunk is not None or len(request.ListFields()) > 1:
        raise DomainError(Reason.STREAM_PROTOCOL, f"{field} must be the only field set", field=field)


def _rename_error_field(error: DomainError) -> None:
    """Names the field of a step's error as the stream has it: what a unary step calls options is ``step``."""
    field = error.field or ""
    if field == "options" or field.startswith("options."):
        error.field = "step" + field.removeprefix("options")
    elif field.startswith(("byte_count", "resume_from", "gradient_id", "row_indices", "overrides")):
        error.field = f"step.{field}"
