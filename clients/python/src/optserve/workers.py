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
from optserve._codec.sparse_rows import AnyGradients
from optserve._engine.overrides import Overrides
from optserve._engine.parameter_transfers import make_pull
from optserve._engine.plan import PlanOptions
from optserve._engine.shared_regions import SharedRegions
from optserve._engine.step_engine import StepEngine
from optserve._engine.step_protocol import Membership
from optserve._engine.step_result import StepResult
from optserve._transport.call import Call
from optserve._transport.connection import Connection
from optserve.parameters import Parameters, Pull, Pulling, as_pull
from optserve.shards import Shard, ShardQueue, torch_dataset
from optserve.spec import member_or_none
from optserve.specs.enums import ParameterPoint, WorkerState
from optserve.v1 import worker_service_pb2 as workers

__all__ = ["BaseMember", "Member", "Worker", "make_join", "make_worker_list"]

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


class BaseMember:
    """What members with threads and with coroutines have in common: who they are, and what they send.

    Args:
        session: resource name of the session.
        layout: of the session.
        worker: name of the worker.
        joined: the server's answer.
        timeout: seconds that a call may take.
    """

    def __init__(
        self,
        session: str,
        layout: Layout,
        worker: str,
        joined: workers.JoinSessionResponse,
        timeout: float,
    ) -> None:
        self._session, self._layout = session, layout
        self.worker, self.epoch, self.rank = worker, joined.epoch, joined.rank
        self.lease = joined.lease_seconds
        self._parameters_step = joined.session.step
        self._membership = Membership(worker, joined.epoch, joined.next_sequence)
        self._shards = ShardQueue(session, worker, joined, timeout)
        self._used = time.monotonic()
        self._error: errors.OptserveError | None = None

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

    def _select_parameters(
        self, pull: Pulling, wire_dtype: DTypeLike | None, into: Mapping[str, Array] | None
    ) -> Pull | None:
        """What a step pulls, once the arrays that it is to fill were checked."""
        pulled = as_pull(pull, wire_dtype)
        if into is not None:
            check_caller_arrays(into, None if pulled is None else self._layout.select(pulled.tensors))
        return pulled

    def _parameters_step_of(self, stated: int | None) -> int:
        return coercion.to_step(self._parameters_step if stated is None else stated, "parameters_step")

    def _accept_result(self, result: StepResult, pulled: Pull | None) -> StepResult:
        self._shards.record_outcome(result.outcome)
        self._used = time.monotonic()
        if pulled is not None:
            self._parameters_step = result.parameters.step
        return result

    def _accept_pulled(self, values: Parameters) -> Parameters:
        self._parameters_step = values.step
        return values

    def _make_renewal(self) -> Call[int]:
        """The call that renews the lease; its result is the session's step."""
        request = workers.RenewLeaseRequest(
            session=self._session, worker=self.worker, worker_epoch=self.epoch
        )
        return Call(lambda stubs: stubs.workers.RenewLease, request, self._accept_renewal)

    def _accept_renewal(self, answer: workers.RenewLeaseResponse) -> int:
        self._used = time.monotonic()
        return answer.step

    def _make_leave(self) -> Call[None]:
        request = workers.LeaveSessionRequest(
            session=self._session, worker=self.worker, worker_epoch=self.epoch
        )
        return Call(lambda stubs: stubs.workers.LeaveSession, request, lambda answer: None)

    @property
    def _renewal_interval(self) -> float:
        """Seconds between two calls, by which the lease is kept."""
        return self.lease / RENEWALS_PER_LEASE

    def _seconds_to_renewal(self) -> float:
        return max(0.0, self._used + self._renewal_interval - time.monotonic())

    def _accept_renewal_error(self, error: errors.OptserveError) -> bool:
        """Notes why the lease could not be renewed; whether another attempt may succeed."""
        self._error = error
        return not isinstance(error, errors.FailedPrecondition)


class Member(BaseMember):
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
        super().__init__(session, layout, worker, joined, connection.timeout)
        self._connection = connection
        regions = SharedRegions(connection, session, layout, False)
        self._engine = StepEngine(
            connection, session, layout, regions, connection.timeout, member=self._membership
        )
        self._ended = threading.Event()
        threading.Thread(target=self._renew_while_idle, name="optserve-lease", daemon=True).start()

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
        pulled = self._select_parameters(pull, wire_dtype, into)
        with self._shards.complete_with_step() as shards:
            result = self._engine.step(
                gradients,
                PlanOptions(pulled, wire_dtype, per_tensor_norms),
                loss_scale=loss_scale,
                overrides=overrides,
                example_count=coercion.to_optional(coercion.to_int, example_count, "example_count"),
                parameters_step=self._parameters_step_of(parameters_step),
                completed_shards=shards,
                into=into,
                timeout=timeout,
            )
        return self._accept_result(result, pulled)

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
        pull = make_pull(
            self._connection,
            self._session,
            self._layout,
            Pull(tensors=tensors, point=point, wire_dtype=wire_dtype),
            newer_than_step=newer_than_step,
            into=into,
            timeout=timeout,
        )
        return self._connection.download(pull.then(self._accept_pulled))

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
        return self._iterate_shards(coercion.to_int(ahead, "ahead"))

    def examples(self, *arrays: Any, ahead: int = 1) -> Iterator[Any]:
        """Yields the examples of each of `shards`: ``array[begin:end]``, a tuple for several arrays."""
        for shard in self.shards(ahead=ahead):
            yield shard.select(arrays)

    def dataset(self, *arrays: Any, ahead: int = 1) -> Any:
        """`examples` as a ``torch.utils.data.IterableDataset``.

        Each item is a shard, for ``DataLoader(dataset, batch_size=None)``. The loader's own processes cannot
        use it, because steps are taken in this one.
        """
        return torch_dataset(lambda: self.examples(*arrays, ahead=ahead))

    def release_shards(self, *, timeout: float | None = None) -> None:
        """Releases the shards that are not complete, to be leased by other workers."""
        return self._connection.call(self._shards.make_release(), timeout)

    def renew(self, *, timeout: float | None = None) -> int:
        """Renews the lease; returns the session's step.

        Raises:
            Fenced: this membership has ended; join again.
        """
        return self._connection.call(self._make_renewal(), timeout)

    def leave(self, *, timeout: float | None = None) -> None:
        """Ends the membership; steps that wait are rejected. Does nothing if it has ended."""
        self.close()
        self._connection.call(self._make_leave(), timeout)

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

    def _iterate_shards(self, ahead: int) -> Iterator[Shard]:
        while (shard := self._connection.call_sequence(self._shards.take(ahead))) is not None:
            yield shard

    def _renew_while_idle(self) -> None:
        interval = self._renewal_interval
        while not self._ended.wait(self._seconds_to_renewal()):
            if self._seconds_to_renewal():
                continue
            try:
                self.renew(timeout=max(interval, 0.1))
            except errors.OptserveError as error:
                if not self._accept_renewal_error(error):
                    return
                self._ended.wait(interval / RENEWALS_PER_LEASE)
            except ValueError:
                return  # the channel is closed
            else:
                self._error = None


def make_join(session: str, worker: str, lease: float | None) -> Call[workers.JoinSessionResponse]:
    """Returns the call of `SessionHandle.join`."""
    request = workers.JoinSessionRequest(session=session, worker=worker)
    if lease is not None:
        request.lease_seconds = coercion.to_float(lease, "lease")
    return Call(lambda stubs: stubs.workers.JoinSession, request, lambda answer: answer)


def make_worker_list(session: str) -> Call[list[Worker]]:
    """Returns the call of `SessionHandle.workers`."""

    def decode(answer: workers.ListWorkersResponse) -> list[Worker]:
        return [Worker.from_message(message) for message in answer.workers]

    return Call(lambda stubs: stubs.workers.ListWorkers, workers.ListWorkersRequest(session=session), decode)
