"""SessionService: sessions, their steps and their values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from grpc import aio

from optserve.framing import Framed
from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_service_pb2_grpc import SessionServiceServicer
from optserve_server.errors import within
from optserve_server.rpc import calls
from optserve_server.rpc.drain import Drain
from optserve_server.rpc.execution import Execution
from optserve_server.rpc.push import received
from optserve_server.rpc.repeats import Repeats, content_of
from optserve_server.rpc.sharing import Sharing
from optserve_server.rpc.stepping import check_pull, stepped
from optserve_server.rpc.streaming import StepStream
from optserve_server.sessions.session import SMALL, Session
from optserve_server.sessions.store import Limits, Store
from optserve_server.wire import metrics, pages, sessions
from optserve_server.wire.chunks import cut
from optserve_server.wire.names import checked_key, checked_session_id, session_id_from

Context = aio.ServicerContext[Any, Any]


class SessionService(SessionServiceServicer):
    """Decodes, calls the domain, encodes. Streams of bytes are of `optserve.framing.Framed` messages.

    Args:
        limits: of the sessions.
        execution: where work runs.
        drain: says when streams are to end.
        sharing: memory shared with clients on this host.
    """

    def __init__(self, limits: Limits, execution: Execution, drain: Drain, sharing: Sharing) -> None:
        self._sharing = sharing
        self._limits = limits
        self._execution = execution
        self._drain = drain
        self._by_namespace: dict[str, Repeats] = {}
        self._creating = asyncio.Lock()

    @property
    def _store(self) -> Store:
        """The sessions of the running call's namespace."""
        return calls.namespace().store

    @property
    def _repeats(self) -> Repeats:
        """The answered requests of the running call's namespace."""
        name = calls.namespace().name
        if name not in self._by_namespace:
            self._by_namespace[name] = Repeats(self._execution)
        return self._by_namespace[name]

    def find(self, name: str) -> Session:
        """The session of that resource name."""
        session_id = session_id_from(name)
        calls.concerns(session_id)
        return self._store.get(session_id)

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Context
    ) -> pb.CreateSessionResponse:
        key = checked_key(request.request_id, "request_id")
        content = content_of(request) if key else b""
        return await self._repeats.once(key, content, partial(self._create, request))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        return pb.GetSessionResponse(session=sessions.session_to(self.find(request.name)))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        size, after = pages.size_from(request.page_size), pages.after_from(request.page_token)
        page, last = self._store.page(size, after)
        return pb.ListSessionsResponse(
            sessions=map(sessions.session_to, page), next_page_token=pages.token_to(last)
        )

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Context
    ) -> pb.DeleteSessionResponse:
        key = checked_key(request.request_id, "request_id")
        content = content_of(request) if key else b""
        return await self._repeats.once(key, content, partial(self._delete, request))

    async def UpdateSession(
        self, request: pb.UpdateSessionRequest, context: Context
    ) -> pb.UpdateSessionResponse:
        key = checked_key(request.request_id, "request_id")
        content = content_of(request) if key else b""
        return await self._repeats.once(key, content, partial(self._update, request))

    async def ReportMetrics(
        self, request: pb.ReportMetricsRequest, context: Context
    ) -> pb.ReportMetricsResponse:
        key = checked_key(request.request_id, "request_id")
        content = content_of(request) if key else b""
        return await self._repeats.once(key, content, partial(self._report, request))

    async def Step(self, request: pb.StepRequest, context: Context) -> pb.StepResponse:
        session = self.find(request.name)
        gradients = sessions.gradients_from(request.gradients)
        rows = sessions.sparse_gradients_from(request.sparse_gradients)
        options = sessions.options_from(request.options)
        with within("options.pull"):
            pull = sessions.pull_from(request.options.pull) if request.options.HasField("pull") else None
            check_pull(session, pull, self._limits.max_message_bytes)
        stage = partial(session.stage_arrays, gradients, rows)
        # Where few rows were sent, the zeros of the others are many.
        staging = await self._execution.in_thread(stage) if rows and not session.is_small else stage()
        work = partial(stepped, session, staging, options, pull)
        result, values = await self._execution.alone(session, work)
        response = pb.StepResponse(result=sessions.result_to(result))
        if values is not None:
            response.parameters.extend(sessions.values_to(values))
            response.parameters_step = values.step
        return response

    async def StepStream(self, requests: object, context: Context) -> None:  # type: ignore[override]
        chunk_bytes = self._limits.chunk_bytes
        await StepStream(self.find, self._execution, self._drain, chunk_bytes, self._sharing, context).serve()

    async def PullParameters(self, request: pb.PullParametersRequest, context: Context) -> AsyncIterator[Any]:
        session = self.find(request.name)
        with within("pull"):
            pull = sessions.pull_from(request.pull)
            check_pull(session, pull)
        if request.HasField("if_newer_than_step") and session.step <= request.if_newer_than_step:
            header = sessions.not_modified_to(session.step, pull.point)
            yield Framed(pb.PullParametersResponse(header=header))
            return
        work = partial(session.values, pull.tensors, pull.dtype, pull.point)
        values = await self._execution.alone(session, work)
        chunks = cut(values.buffer, self._limits.chunk_bytes)
        header = sessions.values_header_to(values)
        yield Framed(pb.PullParametersResponse(header=header), next(chunks, None))
        for chunk in chunks:
            yield Framed(pb.PullParametersResponse(), chunk)

    async def PushParameters(
        self, requests: AsyncIterator[Any], context: Context
    ) -> pb.PushParametersResponse:
        push = await received(requests, self.find)
        header = push.header
        content = content_of(header, push.staging.buffer.data) if header.request_id else b""

        async def act() -> pb.PushParametersResponse:
            await self._execution.alone(push.session, push.assign)
            return pb.PushParametersResponse(session=sessions.session_to(push.session))

        return await self._repeats.once(header.request_id, content, act)

    async def ShareMemory(self, request: pb.ShareMemoryRequest, context: Context) -> pb.ShareMemoryResponse:
        return await self._sharing.share(self.find(request.name), request)

    async def _create(self, request: pb.CreateSessionRequest) -> pb.CreateSessionResponse:
        session_id = checked_session_id(request.session_id)
        spec = sessions.spec_from(request)
        parameters = sessions.parameters_from(request.parameters)
        work = partial(self._store.create, session_id, spec, parameters, request.seed)
        async with self._creating:
            small = sessions.element_count(parameters) <= SMALL
            session = work() if small else await self._execution.in_thread(work)
        calls.concerns(session.id)
        return pb.CreateSessionResponse(session=sessions.session_to(session))

    async def _update(self, request: pb.UpdateSessionRequest) -> pb.UpdateSessionResponse:
        session, spec = self.find(request.name), sessions.spec_from(request)
        expected = request.expected_step if request.HasField("expected_step") else None
        work = partial(self._store.update, session, spec, expected)
        transfers = await self._execution.alone(session, work)
        return pb.UpdateSessionResponse(
            session=sessions.session_to(session), transfers=map(sessions.transfer_to, transfers)
        )

    async def _report(self, request: pb.ReportMetricsRequest) -> pb.ReportMetricsResponse:
        session, values = self.find(request.name), metrics.metrics_from(request.metrics)
        expected = request.expected_step if request.HasField("expected_step") else None
        work = partial(session.report, values, expected_step=expected)
        return metrics.report_to(await self._execution.alone(session, work))

    async def _delete(self, request: pb.DeleteSessionRequest) -> pb.DeleteSessionResponse:
        session = self.find(request.name)
        async with session.lock:
            if self._store.get(session.id) is session:
                self._store.delete(session.id)
        return pb.DeleteSessionResponse()
