"""PushParameters: a header, then all bytes, then the end of the stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

from optserve._codec.framing import Framed
from optserve.v1 import session_service_pb2 as pb
from optserve_server.durability.change_records import PushChange
from optserve_server.errors import DomainError, Reason, within
from optserve_server.rpc.execution.execution import Execution
from optserve_server.sessions.session import Session
from optserve_server.state.session_change import Request
from optserve_server.state.staging import Staging
from optserve_server.stepping.step_plan import wrong_byte_count_error
from optserve_server.wire.fields.chunks import Filler
from optserve_server.wire.fields.names import check_identifier
from optserve_server.wire.fields.tensors import wire_dtype_from

Requests = AsyncIterator[Framed[pb.PushParametersRequest]]


@dataclass(frozen=True)
class Push:
    """A push whose bytes have all arrived."""

    header: pb.PushHeader
    session: Session
    staging: Staging

    def build_change(self, request: Request) -> PushChange:
        """What it asks for."""
        expected = self.header.expected_step if self.header.HasField("expected_step") else None
        return PushChange(self.staging, expected, self.header.reset_state, request)


async def receive_push(requests: Requests, find: Callable[[str], Session], execution: Execution) -> Push:
    """Reads a whole push.

    Args:
        requests: its messages.
        find: the session of a resource name.
        execution: where its staging is laid out.

    Raises:
        DomainError: STREAM_PROTOCOL or STREAM_TRUNCATED if messages are missing or
            come where they may not, or what the header raises.
    """
    first = await anext(requests, None)
    if first is None or not first.message.HasField("header"):
        raise DomainError(Reason.STREAM_PROTOCOL, "a push begins with a header", field="header")
    push = await _begin_push(first.message.header, find, execution)
    filler = Filler(push.staging.buffer)
    filler.add_chunk(first.chunk)
    while (framed := await anext(requests, None)) is not None:
        if framed.message.HasField("header"):
            raise filler.interruption_error("header")
        filler.add_chunk(framed.chunk)
    if not filler.is_complete:
        raise filler.truncation_error()
    return push


async def _begin_push(header: pb.PushHeader, find: Callable[[str], Session], execution: Execution) -> Push:
    with within("header"):
        check_identifier(header.request_id, "request_id")
        session = find(header.name)
        dtype = wire_dtype_from(header.wire_dtype, "wire_dtype")
        session.check_open()
        session.check_step(
            header.expected_step if header.HasField("expected_step") else None, "expected_step"
        )
        stage = partial(session.allocate_staging, tuple(header.tensors) or None, dtype)
        staging = await execution.run_or_offload(len(session.layout.entries), stage)
        if header.byte_count != staging.byte_count:
            raise wrong_byte_count_error(header.byte_count, staging.byte_count)
        return Push(header, session, staging)
