"""Members of a session as messages."""

from __future__ import annotations

from optserve.v1 import worker_service_pb2 as pb
from optserve_server.coordination.membership import Member, MemberState
from optserve_server.errors import DomainError, Reason
from optserve_server.wire.fields.enums import number_of
from optserve_server.wire.fields.names import check_key

DEFAULT_LEASE_S = 30.0
MIN_LEASE_S = 0.1


def worker_from(message: pb.JoinSessionRequest | pb.RenewLeaseRequest | pb.LeaveSessionRequest) -> str:
    """The name of a worker.

    Raises:
        DomainError: FIELD_REQUIRED, or what `check_key` raises.
    """
    if not message.worker:
        raise DomainError(Reason.FIELD_REQUIRED, "worker is required", field="worker")
    return check_key(message.worker, "worker")


def lease_from(message: pb.JoinSessionRequest) -> float:
    """The seconds of a lease.

    Raises:
        DomainError: OUT_OF_RANGE.
    """
    seconds = message.lease_seconds if message.HasField("lease_seconds") else DEFAULT_LEASE_S
    if not MIN_LEASE_S <= seconds < float("inf"):
        text = f"lease_seconds is {seconds:g}, but must be at least {MIN_LEASE_S:g} and finite"
        metadata = {"range": f"at least {MIN_LEASE_S:g}"}
        raise DomainError(Reason.OUT_OF_RANGE, text, field="lease_seconds", metadata=metadata)
    return seconds


def worker_to(member: Member, now: float) -> pb.Worker:
    """A worker; ``now`` by the clock of its membership."""
    is_active = member.state is MemberState.ACTIVE
    state = pb.WorkerState.ValueType(number_of(member.state, pb.WorkerState.DESCRIPTOR))
    return pb.Worker(
        worker=member.worker,
        epoch=member.epoch,
        rank=member.rank,
        state=pb.WORKER_STATE_WAITING if member.waiting else state,
        lease_seconds=member.lease_seconds,
        remaining_seconds=max(0.0, member.expires_at - now) if is_active else 0.0,
        last_step=member.last_step,
        staleness=member.staleness,
        contributions=member.contributions,
        contributions_per_second=1 / member.interval if member.interval else 0.0,
    )
