"""WorkerService: the members of a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpc import aio

from optserve.v1 import worker_service_pb2 as pb
from optserve.v1.worker_service_pb2_grpc import WorkerServiceServicer
from optserve_server.errors import DomainError
from optserve_server.rpc.context import calls
from optserve_server.rpc.execution.coordination import Coordination
from optserve_server.rpc.execution.execution import Execution
from optserve_server.rpc.services.session_description import describe_session
from optserve_server.sessions.session import Session
from optserve_server.wire.messages import workers

Context = aio.ServicerContext[Any, Any]


class WorkerService(WorkerServiceServicer):
    """Decodes, calls, encodes.

    Args:
        find: returns the session of a resource name.
        coordination: changes members.
        execution: describes sessions.
    """

    def __init__(
        self, find: Callable[[str], Session], coordination: Coordination, execution: Execution
    ) -> None:
        self._find_session, self._coordination, self._execution = find, coordination, execution

    def _find_request_session(self, name: str) -> Session:
        try:
            return self._find_session(name)
        except DomainError as error:
            if error.field == "name":  # as other requests call it
                error.field = "session"
            raise

    async def JoinSession(self, request: pb.JoinSessionRequest, context: Context) -> pb.JoinSessionResponse:
        session = self._find_request_session(request.session)
        worker, lease_seconds = _worker_from(request), workers.lease_seconds_from(request)
        member = await self._coordination.join(session, worker, lease_seconds)
        response = pb.JoinSessionResponse(
            epoch=member.epoch,
            rank=member.rank,
            lease_seconds=member.lease_seconds,
            next_sequence=session.step_deduplication.next_sequence(worker),
        )
        await describe_session(self._execution, response.session, session)
        return response

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: Context) -> pb.RenewLeaseResponse:
        session = self._find_request_session(request.session)
        session.coordinator.membership.check_and_renew(_worker_from(request), request.worker_epoch)
        return pb.RenewLeaseResponse(step=session.step)

    async def LeaveSession(
        self, request: pb.LeaveSessionRequest, context: Context
    ) -> pb.LeaveSessionResponse:
        session = self._find_request_session(request.session)
        await self._coordination.leave(session, _worker_from(request), request.worker_epoch)
        return pb.LeaveSessionResponse()

    async def AcquireShards(
        self, request: pb.AcquireShardsRequest, context: Context
    ) -> pb.AcquireShardsResponse:
        acquired = await self._coordination.acquire_shards(
            self._find_request_session(request.session),
            _worker_from(request),
            request.worker_epoch,
            workers.shard_count_from(request),
            workers.wait_seconds_from(request),
        )
        return workers.acquire_response_to(acquired)

    async def ReleaseShards(
        self, request: pb.ReleaseShardsRequest, context: Context
    ) -> pb.ReleaseShardsResponse:
        session, worker = self._find_request_session(request.session), _worker_from(request)
        await self._coordination.release_shards(session, worker, request.worker_epoch, request.shards)
        return pb.ReleaseShardsResponse()

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        membership = self._find_request_session(request.session).coordinator.membership
        now = membership.clock()
        return pb.ListWorkersResponse(
            workers=[workers.worker_to(member, now) for member in membership.list_members()]
        )


def _worker_from(request: workers.MemberRequest) -> str:
    """The worker that a request names, for the log as well."""
    worker = workers.worker_from(request)
    calls.note_worker(worker)
    return worker
