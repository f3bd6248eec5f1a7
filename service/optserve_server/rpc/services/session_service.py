"""SessionService: sessions, their steps and their values."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

from google.protobuf.message import Message
from grpc import aio

from optserve._codec.framing import Framed
from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_service_pb2_grpc import SessionServiceServicer
from optserve_server.coordination.contribution import Contribution
from optserve_server.durability.change_records import ReportChange, UpdateChange
from optserve_server.durability.directory_log import folder_name
from optserve_server.durability.durability_manager import DurabilityManager
from optserve_server.errors import DomainError, Reason, within
from optserve_server.rpc.context import calls
from optserve_server.rpc.context.drain import Drain
from optserve_server.rpc.execution.coordination import Coordination
from optserve_server.rpc.execution.execution import Execution
from optserve_server.rpc.execution.idempotency import answer_once, commit_change, digest_request
from optserve_server.rpc.execution.shielded_coroutine import ShieldedCoroutine
from optserve_server.rpc.services.session_description import describe_session
from optserve_server.rpc.services.session_events import stream_events, wait_for_step
from optserve_server.rpc.services.snapshots import Snapshots, receive_snapshot
from optserve_server.rpc.streaming.memory_sharing import MemorySharing
from optserve_server.rpc.streaming.push import receive_push
from optserve_server.rpc.streaming.step_stream import StepStream
from optserve_server.rpc.streaming.stream_messages import StreamMessages
from optserve_server.rpc.transport.data_connections import DataConnections
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Limits, ParameterInit, Store
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.read_parameters import Reply, check_pull
from optserve_server.state.session_change import ChangeKind, Request
from optserve_server.state.session_state import MANY_TENSORS
from optserve_server.state.step_result import StepOptions, StepResult
from optserve_server.stepping.step import Step as TakenStep
from optserve_server.stepping.step_plan import UnaryStep
from optserve_server.wire.fields import page_tokens
from optserve_server.wire.fields.chunks import split_chunks
from optserve_server.wire.fields.names import (
    check_identifier,
    check_session_id,
    session_id_from,
    session_name,
    snapshot_from,
)
from optserve_server.wire.messages import metrics, parameters, sessions, steps
from optserve_server.wire.messages.history import DEFAULT_POINTS, check_history_request, page_to
from optserve_server.wire.specifications.spec_text import SPEC_TEXT

Context = aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)


class SessionService(SessionServiceServicer):
    """Decodes, calls the domain, encodes. Streams of bytes are of `optserve.framing.Framed` messages.

    Args:
        limits: of the sessions.
        execution: where work runs.
        drain: says when streams are to end.
        sharing: memory shared with clients on this host.
        data: where streams may have connections of their own.
        coordination: makes the steps of members.
        durability_manager: keeps sessions on a disk; None if all are held in memory alone.
    """

    def __init__(
        self,
        limits: Limits,
        execution: Execution,
        drain: Drain,
        sharing: MemorySharing,
        data: DataConnections,
        coordination: Coordination,
        durability_manager: DurabilityManager | None = None,
    ) -> None:
        self._sharing, self._data = sharing, data
        self._coordination = coordination
        self._durability_manager = durability_manager
        self._snapshots = Snapshots(execution, durability_manager, SPEC_TEXT)
        self._limits = limits
        self._execution = execution
        self._drain = drain

    @property
    def _session_store(self) -> Store:
        """The sessions of the running call's namespace."""
        return calls.current_namespace().store

    def find_session(self, name: str) -> Session:
        """The session of that resource name."""
        call = calls.current.get()
        assert call is not None  # handlers run within the interceptor
        assert call.caller is not None
        call.session = session_id_from(name)
        session = call.caller.namespace.store.get(call.session)
        session.activity.used = time.monotonic()
        return session

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Context
    ) -> pb.CreateSessionResponse:
        key = check_identifier(request.request_id, "request_id")
        # Here, and below, for a request of many tensors or bytes is not to hold the loop.
        content = await self._execution.in_thread(partial(digest_request, request)) if key else b""
        asked = Request(key, content)
        return await answer_once(
            calls.current_namespace().requests, asked, partial(self._create_session, request, asked)
        )

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        session = self.find_session(request.name)
        response = pb.GetSessionResponse()
        await describe_session(self._execution, response.session, session)
        if request.worker:
            worker = check_identifier(request.worker, "worker")
            calls.note_worker(worker)
            response.next_sequence = session.step_deduplication.next_sequence(worker)
        return response

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        size = page_tokens.page_size_from(request.page_size)
        after = page_tokens.page_start_from(request.page_token)
        page, last = self._session_store.list_page(size, after)
        response = pb.ListSessionsResponse(next_page_token=page_tokens.encode_page_token(last))
        for session in page:
            await describe_session(self._execution, response.sessions.add(), session)
        return response

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Context
    ) -> pb.DeleteSessionResponse:
        return await self._answer_once(request, partial(self._delete_session_or_damaged, request))

    async def UpdateSession(
        self, request: pb.UpdateSessionRequest, context: Context
    ) -> pb.UpdateSessionResponse:
        return await self._answer_once(request, partial(self._update_session, request))

    async def ReportMetrics(
        self, request: pb.ReportMetricsRequest, context: Context
    ) -> pb.ReportMetricsResponse:
        return await self._answer_once(request, partial(self._report_metrics, request))

    async def WatchSession(
        self, request: pb.WatchSessionRequest, context: Context
    ) -> AsyncIterator[pb.WatchSessionResponse]:
        async for response in stream_events(self.find_session(request.name), self._drain, self._execution):
            yield response

    async def GetHistory(self, request: pb.GetHistoryRequest, context: Context) -> pb.GetHistoryResponse:
        check_history_request(request)
        session = self.find_session(request.name)
        async with session.lock:
            return await self._execution.run_or_offload(
                request.page_size or DEFAULT_POINTS, partial(page_to, session.history, request)
            )

    async def delete_expired_session(self, session: Session, store: Store) -> None:
        """Deletes a session whose lease is over."""
        session.activity.expired = True
        await ShieldedCoroutine(self._delete_session(session, store, Request("", b"")))

    async def Step(self, request: pb.StepRequest, context: Context) -> pb.StepResponse:
        session = self.find_session(request.name)
        options = steps.unary_options_from(request.options)
        call = calls.current.get()
        if call is not None:
            call.worker = options.worker
        stage = partial(self._stage_step, session, request, options)
        # If few rows were sent, the zeros of the others are many.
        is_long = len(request.gradients) > MANY_TENSORS or (request.sparse_gradients and not session.is_small)
        unary, reply, change = await self._execution.in_thread(stage) if is_long else stage()

        def answer(step: TakenStep | StepResult) -> pb.StepResponse:
            result = step.commit(reply) if isinstance(step, TakenStep) else step
            response = pb.StepResponse(result=steps.result_to(result))
            if reply is not None:
                response.parameters.extend(parameters.staging_values_to(reply.staging))
                response.parameters_step = reply.step
            unary.cache_plan()
            return response

        if isinstance(change, Contribution):
            return answer(await self._coordination.contribute(session, change, reply))
        return await self._execution.commit(session, change, answer, calls.current.get())

    def _stage_step(
        self, session: Session, request: pb.StepRequest, options: StepOptions
    ) -> tuple[UnaryStep[Session], Reply | None, TakenStep | Contribution]:
        """Reads the gradient of a step into its place, and makes what is to be committed."""
        gradients = steps.gradients_from(request.gradients)
        rows = steps.sparse_gradients_from(request.sparse_gradients)
        pull = None
        try:
            if request.options.HasField("pull"):
                pull = parameters.pull_from(request.options.pull)
        except DomainError as error:
            error.prefix_field("options.pull")
            raise
        unary = UnaryStep.get_or_make(session, gradients, rows, pull)
        self._check_message_size(unary.plan.parameters_byte_count)
        make = TakenStep if options.member is None else Contribution
        return unary, unary.plan.make_reply(unary.staging), make(session, unary.staging, options)

    def _check_message_size(self, byte_count: int) -> None:
        """Rejects parameters that do not fit into one message, before the step is taken.

        Raises:
            DomainError: LIMIT_EXCEEDED.
        """
        limit = self._limits.max_message_bytes
        if byte_count > limit > 0:
            raise DomainError(
                Reason.LIMIT_EXCEEDED,
                f"{byte_count} bytes of parameters do not fit into one message; use StepStream",
                field="options.pull",
                metadata={"limit": "max_message_bytes", "value": limit},
            )

    def StepStream(self, requests: object, context: Context) -> Awaitable[None]:  # type: ignore[override]
        limits, execution = self._limits, self._execution
        messages = StreamMessages(context, self._data, execution.meters, limits)
        common = execution, self._drain, limits.chunk_bytes, self._sharing
        stream = StepStream(self.find_session, *common, messages, self._coordination)
        return stream.serve()  # awaited by the interceptor: one coroutine less to resume for each message

    async def PullParameters(self, request: pb.PullParametersRequest, context: Context) -> AsyncIterator[Any]:
        session = self.find_session(request.name)
        with within("pull"):
            pull = parameters.pull_from(request.pull)
            count = len(session.layout.entries)
            await self._execution.run_or_offload(count, partial(check_pull, session, pull))
        if request.HasField("newer_than_step"):
            await wait_for_step(session, request.newer_than_step + 1, self._drain)
        if request.HasField("if_newer_than_step") and session.step <= request.if_newer_than_step:
            header = parameters.not_modified_header(session.step, pull.point)
            yield Framed(pb.PullParametersResponse(header=header))
            return
        work = partial(session.read_values, pull.tensors, pull.dtype, pull.point)
        values = await self._execution.run_exclusively(session, work, calls.current.get())
        chunks = split_chunks(values.buffer, self._limits.chunk_bytes)
        header = await self._execution.run_or_offload(count, partial(parameters.values_header_to, values))
        calls.note_answer_size(count)
        yield Framed(pb.PullParametersResponse(header=header), next(chunks, None))
        for chunk in chunks:
            yield Framed(pb.PullParametersResponse(), chunk)

    async def PushParameters(
        self, requests: AsyncIterator[Any], context: Context
    ) -> pb.PushParametersResponse:
        push = await receive_push(requests, self.find_session, self._execution)
        header = push.header
        content = b""
        if header.request_id:
            digest = partial(digest_request, header, push.staging.data)
            content = await self._execution.in_thread(digest)

        asked = Request(header.request_id, content)
        act = partial(commit_change, self._execution, push.session, push.build_change(asked))
        return cast(
            pb.PushParametersResponse, await answer_once(calls.current_namespace().requests, asked, act)
        )

    async def ShareMemory(self, request: pb.ShareMemoryRequest, context: Context) -> pb.ShareMemoryResponse:
        return await self._sharing.share_region(self.find_session(request.name), request)

    async def CreateSnapshot(
        self, request: pb.CreateSnapshotRequest, context: Context
    ) -> pb.CreateSnapshotResponse:
        act = partial(self._snapshots.create, self.find_session(request.name))
        return cast(pb.CreateSnapshotResponse, await self._answer_once(request, act))

    async def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: Context
    ) -> pb.ListSnapshotsResponse:
        return await self._snapshots.list_snapshots(self.find_session(request.name))

    async def DeleteSnapshot(
        self, request: pb.DeleteSnapshotRequest, context: Context
    ) -> pb.DeleteSnapshotResponse:
        session, step = self._resolve_snapshot_name(request.name)
        act = partial(self._snapshots.delete, session, step)
        return cast(pb.DeleteSnapshotResponse, await self._answer_once(request, act))

    async def RestoreSnapshot(
        self, request: pb.RestoreSnapshotRequest, context: Context
    ) -> pb.RestoreSnapshotResponse:
        session, step = self._resolve_snapshot_name(request.name)
        act = partial(self._snapshots.restore, session, step, request)
        return cast(pb.RestoreSnapshotResponse, await self._answer_once(request, act))

    async def ForkSession(self, request: pb.ForkSessionRequest, context: Context) -> pb.ForkSessionResponse:
        session_id, _ = snapshot_from(request.name)
        source = self.find_session(session_name(session_id))

        async def act(asked: Request) -> Message:
            keep = self._make_persist_callback(ChangeKind.FORK, asked)
            session_id = self._session_store.choose_id(check_session_id(request.session_id))
            async with _creation(session_id):
                return await self._snapshots.fork(
                    self._session_store, source, request, session_id, keep, _make_left_check(asked)
                )

        return cast(pb.ForkSessionResponse, await self._answer_once(request, act))

    async def ExportSnapshot(self, request: pb.ExportSnapshotRequest, context: Context) -> AsyncIterator[Any]:
        session_id, step = snapshot_from(request.name)
        session = self.find_session(session_name(session_id))
        async for response in self._snapshots.export(session, step, self._limits.chunk_bytes):
            yield response

    async def ImportSnapshot(
        self, requests: AsyncIterator[Any], context: Context
    ) -> pb.ImportSnapshotResponse:
        header, data = await receive_snapshot(requests, self._session_store)
        content = b""
        if header.request_id:
            content = await self._execution.in_thread(partial(digest_request, header, data.data))
        asked = Request(header.request_id, content)
        keep = self._make_persist_callback(ChangeKind.IMPORT, asked)

        async def act() -> Message:
            session_id = self._session_store.choose_id(check_session_id(header.session_id))
            async with _creation(session_id):
                return await self._snapshots.import_snapshot(
                    self._session_store, session_id, data, keep, _make_left_check(asked)
                )

        answer = await answer_once(calls.current_namespace().requests, asked, act)
        return cast(pb.ImportSnapshotResponse, answer)

    async def _answer_once(self, request: Any, act: Callable[[Request], Awaitable[M]]) -> M:
        """The answer of ``act``, which gets the request's id and content, or the answer given before."""
        key = check_identifier(request.request_id, "request_id")
        asked = Request(key, digest_request(request) if key else b"")
        return await answer_once(calls.current_namespace().requests, asked, partial(act, asked))

    def _resolve_snapshot_name(self, name: str) -> tuple[Session, int]:
        session_id, step = snapshot_from(name)
        if step is None:
            raise DomainError(Reason.MALFORMED_NAME, f"{name[:200]!r} is no name of a snapshot", field="name")
        return self.find_session(session_name(session_id)), step

    def _make_persist_callback(self, kind: ChangeKind, request: Request) -> Callable[[Session], object]:
        """What keeps a new session on the disk."""
        if self._durability_manager is None:
            return lambda _: None
        return partial(
            self._durability_manager.create_session_files, calls.current_namespace(), kind, request
        )

    async def _create_session(
        self, request: pb.CreateSessionRequest, asked: Request
    ) -> pb.CreateSessionResponse:
        session_id = self._session_store.choose_id(check_session_id(request.session_id))
        keep = self._make_persist_callback(ChangeKind.CREATE, asked)
        spec, parameters = await self._execution.in_thread(partial(_decode_create_request, request))
        check = _make_left_check(asked)
        work = partial(self._session_store.create, session_id, spec, parameters, request.seed, keep, check)
        async with _creation(session_id):
            session = await self._execution.create(work, check)
        call = calls.current.get()
        if call is not None:
            call.session = session.id
        response = pb.CreateSessionResponse()
        await describe_session(self._execution, response.session, session)
        return response

    async def _update_session(
        self, request: pb.UpdateSessionRequest, asked: Request
    ) -> pb.UpdateSessionResponse:
        session, spec = self.find_session(request.name), sessions.spec_from(request)
        expected = request.expected_step if request.HasField("expected_step") else None
        change = UpdateChange(self._session_store, spec, expected, asked)
        return cast(pb.UpdateSessionResponse, await commit_change(self._execution, session, change))

    async def _report_metrics(
        self, request: pb.ReportMetricsRequest, asked: Request
    ) -> pb.ReportMetricsResponse:
        session, values = self.find_session(request.name), metrics.metrics_from(request.metrics)
        expected = request.expected_step if request.HasField("expected_step") else None
        change = ReportChange(values, expected, asked)
        return cast(pb.ReportMetricsResponse, await commit_change(self._execution, session, change))

    async def _delete_session_or_damaged(
        self, request: pb.DeleteSessionRequest, asked: Request
    ) -> pb.DeleteSessionResponse:
        session_id, store = session_id_from(request.name), self._session_store
        if self._durability_manager is not None and store.is_damaged(session_id):
            name = folder_name(calls.current_namespace().name, session_id)
            await self._durability_manager.in_thread(
                partial(self._durability_manager.delete_quarantined, name, asked), store.budget
            )
            store.remove_damaged(session_id)
            return pb.DeleteSessionResponse()
        session = self.find_session(request.name)
        await ShieldedCoroutine(self._delete_session(session, store, asked))
        return pb.DeleteSessionResponse()

    async def _delete_session(self, session: Session, store: Store, asked: Request) -> None:
        # A snapshot that is being written goes first: its folder goes with the session.
        saving = contextlib.nullcontext() if session.durability is None else session.durability.saving
        async with saving, session.lock:
            if store.get(session.id) is not session:
                return
            if self._durability_manager is not None and session.durability is not None:
                await self._durability_manager.in_thread(
                    partial(self._durability_manager.delete_session, session.durability, asked), store.budget
                )
            store.delete(session.id)


@contextlib.asynccontextmanager
async def _creation(session_id: str) -> AsyncIterator[None]:
    """Makes a session of the running call's namespace, one of each id at once."""
    lock = calls.current_namespace().creation_locks[session_id]
    with calls.suspend_idle_timeout():
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make_left_check(asked: Request) -> Callable[[], None]:
    """What ends work whose client has left: at once, or later if a repeat may ask for its result."""
    if not asked.key:
        return calls.make_left_check()
    return calls.current_namespace().requests.audiences[asked.key].check


def _decode_create_request(request: pb.CreateSessionRequest) -> tuple[SessionSpec, list[ParameterInit]]:
    """Reads the specification and the parameters of a new session."""
    return sessions.spec_from(request), sessions.parameters_from(request.parameters)
