"""Workers that train one session together: membership, contributions, leases."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from numpy.typing import DTypeLike

from optserve import coercion, errors
from optserve._codec.caller_arrays import check_caller_arrays
from optserve._codec.dtypes import Array
from optserve._codec.layout import Layout
from optserve._codec.receive_buffers import ReceiveBuffers
from optserve._codec.sparse_rows import AnyGradients
from optserve._engine.call_pull_parameters import call_pull_parameters
from optserve._engine.overrides import Overrides
from optserve._engine.plan import PlanOptions
from optserve._engine.shared_regions import SharedRegions
from optserve._engine.step_engine import StepEngine
from optserve._engine.step_protocol import Membership
from optserve._engine.step_result import StepResult
from optserve._transport.connection import Connection
from optserve._transport.retry import transfer_timeout
from optserve.parameters import Parameters, Pull, Pulling, as_pull
from optserve.shards import Shard, ShardQueue, torch_dataset
from optserve.spec import member_or_none
from optserve.specs.enums import ParameterPoint, WorkerState
from optserve.v1 import session_service_pb2 as wire
from optserve.v1 import worker_service_pb2 as workers

__all__ = ["Member", "Worker", "join_session", "list_workers"]

RENEWALS_PER_LEASE = 3
"""Calls within one lease, if the worker makes no others: two of them may be lost."""


@dataclass(frozen=True)
class Worker:
    """A worker that is, or was, a member of a session.

    Attributes:
        worker: its name.
        epoch: its last epoch.
        rank: its rank in that epoch.
        state: whether it is a member; None for a state newer than this client.
        lease: seconds of its lease.
        remaining: seconds until the lease runs out; 0 if it is no member.
        last_step: the session's step after its last contribution.
        staleness: that of its last contribution.
        contributions: contributions in this epoch.
        contributions_per_second: by a moving average of the time between two of them.
    """

    worker: str
    epoch: int
    rank: int
    state: WorkerState | None
    lease: float
    remaining: float
    last_step: int
    staleness: int
    contributions: int
    contributions_per_second: float

    @classmethod
    def from_message(cls, message: workers.Worker) -> Worker:
        """Returns the worker that a server described."""
        return cls(
            message.worker,
            message.epoch,
            message.rank,
            member_or_none(WorkerState, message.state),
            message.lease_seconds,
            message.remaining_seconds,
            message.last_step,
            message.staleness,
            message.contributions,
            message.contributions_per_second,
        )


class Member:
    """A worker's membership in a session; made by `SessionHandle.join`.

    Its steps carry the epoch of the membership, and the step of the parameters that they were computed
    with: those that this object received last. A step may wait for other workers. The lease is renewed
    by every step and, while there is none, by a thread. Leaving a ``with`` block ends the membership.

    Args:
        connection: to the server.
        session: resource name of the session.
        layout: of the session.
        worker: name of the worker.
        joined: the server's answer.
    """

    def __init__(
        self,
        connection: Connection,
        session: str,
        layout: Layout,
        worker: str,
        joined: workers.JoinSessionResponse,
    ) -> None:
        self._connection, self._session, self._layout = connection, session, layout
        self.worker, self.epoch, self.rank = worker, joined.epoch, joined.rank
        self.lease = joined.lease_seconds
        self._parameters_step = joined.session.step
        membership = Membership(worker, joined.epoch, joined.next_sequence)
        regions = SharedRegions(connection, session, layout, False)
        self._engine = StepEngine(connection, session, layout, regions, connection.timeout, member=membership)
        self._shards = ShardQueue(connection, session, worker, joined)
        self._used = time.monotonic()
        self._ended = threading.Event()
        self._error: errors.OptserveError | None = None
        threading.Thread(target=self._renew_while_idle, name="optserve-lease", daemon=True).start()

    @property
    def parameters_step(self) -> int:
        """The step of the parameters that this worker received last."""
        return self._parameters_step

    @property
    def error(self) -> errors.OptserveError | None:
        """Why the lease could not be renewed, `Fenced` for example; None while it can."""
        return self._error

    def __repr__(self) -> str:
        return f"<Member {self.worker} of {self._session}, epoch {self.epoch}, rank {self.rank}>"

    def step(
        self,
        gradients: AnyGradients,
        *,
        example_count: int | None = None,
        parameters_step: int | None = None,
        pull: Pulling = True,
        wire_dtype: DTypeLike | None = None,
        loss_scale: float | None = None,
        per_tensor_norms: bool = False,
        overrides: Overrides | None = None,
        into: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> StepResult:
        """Contributes a gradient or, under `CoordinationRounds`, a change of the parameters.

        It completes the shards that `shards` yielded since the last step.

        Args:
            gradients: as for `SessionHandle.step`.
            example_count: examples that it was computed of; 1 when None.
            parameters_step: the step of the parameters at which it was computed; of those that this object
                received last when None.
            pull: what to return in the same answer, as for `SessionHandle.step`; the parameters by default.
            wire_dtype: element type to send in, and of parameters if ``pull`` names none.
            loss_scale: factor of the loss, by which gradients are divided.
            per_tensor_norms: whether to return the norm of each tensor.
            overrides: as for `SessionHandle.step`, where contributions are not aggregated.
            into: arrays by tensor name that are filled with the parameters.
            timeout: seconds in all, waits for other workers included; the client's default when None.

        Raises:
            Fenced: this membership has ended; join again.
            ShardNotHeld: a shard was completed before, or a snapshot was restored; go on with `shards`.
            Stale, RoundClosed: it was computed too long ago; pull, and compute another one.
            DeadlineExceeded: there was no answer; the step may still wait, or have been applied. Repeating
                it with the same gradients counts them once.
            OptserveError: as for `SessionHandle.step`.
        """
        timeout = coercion.to_optional(coercion.to_seconds, timeout, "timeout")
        pulled = as_pull(pull, wire_dtype)
        if into is not None:
            check_caller_arrays(into, None if pulled is None else self._layout.select(pulled.tensors))
        at = self._parameters_step if parameters_step is None else parameters_step
        with self._shards.complete_with_step() as shards:
            result = self._engine.step(
                gradients,
                PlanOptions(pulled, wire_dtype, per_tensor_norms),
                loss_scale=loss_scale,
                overrides=overrides,
                example_count=coercion.to_optional(coercion.to_int, example_count, "example_count"),
                parameters_step=coercion.to_step(at, "parameters_step"),
                completed_shards=shards,
                into=into,
                timeout=timeout,
            )
            self._shards.record_outcome(result.outcome)
        self._used = time.monotonic()
        if pulled is not None:
            self._parameters_step = result.parameters.step
        return result

    def pull(
        self,
        tensors: Sequence[str] | None = None,
        *,
        point: ParameterPoint | None = None,
        wire_dtype: DTypeLike | None = None,
        newer_than_step: int | None = None,
        into: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> Parameters:
        """Reads parameters, as `SessionHandle.pull` does; the next step is computed with them."""
        values = pull_parameters(
            self._connection,
            self._session,
            self._layout,
            Pull(tensors=tensors, point=point, wire_dtype=wire_dtype),
            newer_than_step=newer_than_step,
            into=into,
            timeout=timeout,
        )
        self._parameters_step = values.step
        return values

    def shards(self, *, ahead: int = 1) -> Iterator[Shard]:
        """Yields shards of the session's data plan until all are complete.

        The next step completes those that were yielded since the last one, in the same record. If it
        fails or is not applied, they are yielded again, unless another step is taken before. The iterator
        waits while other workers hold all shards that are left; it ends early if this one holds them.

        Args:
            ahead: shards to lease in the same call, at most 1023. They are leased by others when this
                membership ends.

        Raises:
            Fenced: this membership has ended; join again.
            FailedPrecondition: the session has no data plan.
        """
        return self._shards.iterate(coercion.to_int(ahead, "ahead"))

    def examples(self, *arrays: Any, ahead: int = 1) -> Iterator[Any]:
        """Yields the examples of each of `shards`: ``array[begin:end]``, a tuple for several arrays."""
        for shard in self.shards(ahead=ahead):
            found = tuple(array[shard.begin : shard.end] for array in arrays)
            yield found[0] if len(found) == 1 else found

    def dataset(self, *arrays: Any, ahead: int = 1) -> Any:
        """`examples` as a ``torch.utils.data.IterableDataset``.

        Each item is a shard, for ``DataLoader(dataset, batch_size=None)``. The loader's own processes cannot
        use it, because steps are taken in this one.
        """
        return torch_dataset(lambda: self.examples(*arrays, ahead=ahead))

    def release_shards(self, *, timeout: float | None = None) -> None:
        """Releases the shards that are not complete, to be leased by other workers."""
        self._shards.release(timeout)

    def renew(self, *, timeout: float | None = None) -> int:
        """Renews the lease; returns the session's step.

        Raises:
            Fenced: this membership has ended; join again.
        """
        request = workers.RenewLeaseRequest(
            session=self._session, worker=self.worker, worker_epoch=self.epoch
        )
        response = self._connection.call(self._connection.workers.RenewLease, request, timeout)
        self._used = time.monotonic()
        return response.step

    def leave(self, *, timeout: float | None = None) -> None:
        """Ends the membership; steps that wait are rejected. Does nothing if it has ended."""
        self.close()
        request = workers.LeaveSessionRequest(
            session=self._session, worker=self.worker, worker_epoch=self.epoch
        )
        self._connection.call(self._connection.workers.LeaveSession, request, timeout)

    def close(self) -> None:
        """Stops renewing the lease, and does not leave: the membership ends with the lease."""
        self._ended.set()
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, errors.Fenced):
            self.close()
        else:
            self.leave()

    def _renew_while_idle(self) -> None:
        interval = self.lease / RENEWALS_PER_LEASE
        while not self._ended.wait(max(0.0, self._used + interval - time.monotonic())):
            if time.monotonic() < self._used + interval:
                continue
            try:
                self.renew(timeout=max(interval, 0.1))
            except errors.FailedPrecondition as error:
                self._error = error
                return
            except errors.OptserveError as error:
                self._error = error
                self._ended.wait(interval / RENEWALS_PER_LEASE)
            except ValueError:
                return  # the channel is closed
            else:
                self._error = None


def join_session(
    connection: Connection,
    session: str,
    layout: Layout,
    worker: str,
    lease: float | None,
    timeout: float | None,
) -> Member:
    """Makes a worker a member; see `SessionHandle.join`."""
    request = workers.JoinSessionRequest(session=session, worker=worker)
    if lease is not None:
        request.lease_seconds = coercion.to_float(lease, "lease")
    joined = connection.call(connection.workers.JoinSession, request, timeout)
    return Member(connection, session, layout, worker, joined)


def list_workers(connection: Connection, session: str, timeout: float | None) -> list[Worker]:
    """Lists members and former members; see `SessionHandle.workers`."""
    request = workers.ListWorkersRequest(session=session)
    response = connection.call(connection.workers.ListWorkers, request, timeout)
    return [Worker.from_message(message) for message in response.workers]


def pull_parameters(
    connection: Connection,
    session: str,
    layout: Layout,
    pull: Pull,
    *,
    if_newer_than_step: int | None = None,
    newer_than_step: int | None = None,
    into: Mapping[str, Array] | None = None,
    timeout: float | None = None,
) -> Parameters:
    """Reads parameters; arguments and errors as of `SessionHandle.pull`."""
    if into is not None:
        into = coercion.to_mapping(into, "into")
        check_caller_arrays(into, layout.select(pull.tensors))
    request = wire.PullParametersRequest(name=session, pull=pull.message(layout))
    if if_newer_than_step is not None:
        request.if_newer_than_step = coercion.to_int(if_newer_than_step, "if_newer_than_step")
    if newer_than_step is not None:
        request.newer_than_step = coercion.to_int(newer_than_step, "newer_than_step")
    if timeout is None:
        timeout = transfer_timeout(connection.timeout, pull.byte_count(layout))
    return connection.run(
        lambda left: call_pull_parameters(connection, request, left, ReceiveBuffers(), into), timeout
    )
