"""Members of a session as messages."""

from __future__ import annotations

import dataclasses
import math

from optserve.v1 import worker_service_pb2 as pb
from optserve_server.coordination.membership import Member, MemberState
from optserve_server.coordination.shard_change import Acquired
from optserve_server.errors import DomainError, Reason
from optserve_server.wire.fields.enums import enum_number
from optserve_server.wire.fields.names import check_identifier

DEFAULT_LEASE_S = 30.0
MIN_LEASE_S = 0.1
MAX_SHARDS_HELD = 1024

MemberRequest = (
    pb.JoinSessionRequest
    | pb.RenewLeaseRequest
    | pb.LeaveSessionRequest
    | pb.AcquireShardsRequest
    | pb.ReleaseShardsRequest
)


def worker_from(message: MemberRequest) -> str:
    """The name of a worker.

    Raises:
        DomainError: FIELD_REQUIRED, or what `check_identifier` raises.
    """
    if not message.worker:
        raise DomainError(Reason.FIELD_REQUIRED, "worker is required", field="worker")
    return check_identifier(message.worker, "worker")


def lease_seconds_from(message: pb.JoinSessionRequest) -> float:
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


def shard_count_from(message: pb.AcquireShardsRequest) -> int:
    """The number of shards that a worker is to hold.

    Raises:
        DomainError: OUT_OF_RANGE.
    """
    if message.count > MAX_SHARDS_HELD:
        text = f"count is {message.count}, but must be at most {MAX_SHARDS_HELD}"
        metadata = {"range": f"at most {MAX_SHARDS_HELD}"}
        raise DomainError(Reason.OUT_OF_RANGE, text, field="count", metadata=metadata)
    return message.count or 1


def wait_seconds_from(message: pb.AcquireShardsRequest) -> float:
    """The seconds to wait for shards; infinity when unset.

    Raises:
        DomainError: OUT_OF_RANGE.
    """
    if not message.HasField("wait_seconds"):
        return math.inf
    if not message.wait_seconds >= 0:
        text = f"wait_seconds is {message.wait_seconds:g}, but must be at least 0"
        raise DomainError(Reason.OUT_OF_RANGE, text, field="wait_seconds", metadata={"range": "at least 0"})
    return message.wait_seconds


def acquire_response_to(acquired: Acquired) -> pb.AcquireShardsResponse:
    """The shards that a worker holds."""
    shards = [pb.DataShard(**dataclasses.asdict(shard)) for shard in acquired.shards]
    return pb.AcquireShardsResponse(shards=shards, finished=acquired.is_finished)


def worker_to(member: Member, now: float) -> pb.Worker:
    """A worker; ``now`` by the clock of its membership."""
    is_active = member.state is MemberState.ACTIVE
    state = pb.WorkerState.ValueType(enum_number(member.state, pb.WorkerState.DESCRIPTOR))
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
