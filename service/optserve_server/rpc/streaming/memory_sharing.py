"""ShareMemory, and steps whose gradient and parameters are in shared memory."""

from __future__ import annotations

from functools import partial

from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import DomainError, Reason
from optserve_server.rpc.execution.execution import Execution
from optserve_server.rpc.transport.descriptor_passing import CLAIM_TIMEOUT_S, DescriptorPassing
from optserve_server.sessions.session import Session
from optserve_server.shared_memory.regions import Region, Regions, make_region
from optserve_server.wire.messages import sharing


class MemorySharing:
    """Shares memory with clients on the same host.

    Args:
        execution: where the memory is made.
        wanted: whether it is to be shared at all.
        max_descriptors: file descriptors that it may hold.
        idle_seconds: after which unused memory is dropped; 0 for never.

    Attributes:
        regions: what is shared.
    """

    def __init__(
        self,
        execution: Execution,
        wanted: bool = True,
        max_descriptors: int = 1000,
        idle_seconds: float = 0.0,
    ) -> None:
        self._execution = execution
        self._wanted = wanted
        self.regions = Regions(max_descriptors, idle_seconds)
        self._descriptor_passing = DescriptorPassing(self.regions)
        self.stop = self._descriptor_passing.stop

    def start(self) -> None:
        """Listens for clients that fetch what was shared with them."""
        if self._wanted:
            self._descriptor_passing.start()

    @property
    def is_available(self) -> bool:
        """Whether the server can share memory."""
        return bool(self._descriptor_passing.name)

    async def share_region(self, session: Session, request: pb.ShareMemoryRequest) -> pb.ShareMemoryResponse:
        """Makes a region and says where it is to be fetched.

        Raises:
            DomainError: what `make_region` raises, LIMIT_EXCEEDED, or
                SHARED_MEMORY_UNAVAILABLE if the server has no socket to hand it over.
        """
        (tensors, dtype), key = sharing.sharing_request_from(request)
        if not self.is_available:
            raise DomainError(Reason.SHARED_MEMORY_UNAVAILABLE, "the server shares no memory")
        self.regions.check_room()
        region = await self._execution.run_exclusively(
            session, partial(make_region, session, tensors, dtype, key)
        )
        self.regions.add(region)
        self._descriptor_passing.schedule_expiry(region)
        answer = partial(sharing.region_to, region, self._descriptor_passing.name, CLAIM_TIMEOUT_S)
        return await self._execution.run_or_offload(len(session.layout.entries), answer)

    def find_region(self, session: Session, name: str) -> Region:
        """A session's region of that name.

        Raises:
            DomainError: REGION_NOT_FOUND at ``region``.
        """
        return self.regions.get(name, session)
