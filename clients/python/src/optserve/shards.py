"""Shards of a session's data plan, as a worker leases and completes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from optserve import errors
from optserve._transport.call import Call, CallSequence
from optserve.message_record import MessageRecord
from optserve.specs.enums import StepOutcome
from optserve.v1 import session_pb2
from optserve.v1 import worker_service_pb2 as workers

__all__ = ["DataPlanState", "Shard", "ShardQueue", "torch_dataset"]

WAITS_PER_LEASE = 3
"""Calls that wait for shards within one lease, which each of them renews."""


@dataclass(frozen=True)
class DataPlanState(MessageRecord, message=session_pb2.DataPlanState):
    """Progress of a data plan.

    Attributes:
        shard_count: number of shards of all epochs.
        completed: number of shards that are complete.
        leased: number of shards that members hold.
        epoch: the first epoch, from 0, with a shard that is not complete; the number of epochs if all are.
    """

    shard_count: int
    completed: int
    leased: int
    epoch: int

    @property
    def finished(self) -> bool:
        """Whether all shards are complete."""
        return self.completed == self.shard_count


@dataclass(frozen=True)
class Shard(MessageRecord, message=workers.DataShard):
    """A shard in one epoch: the examples in [begin, end).

    Attributes:
        number: its number among the shards of all epochs.
        epoch: the epoch of the data, from 0.
        index: which part of the data it is, from 0.
        begin: its first example.
        end: the example after its last one.
    """

    number: int
    epoch: int
    index: int
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def examples(self) -> range:
        """Numbers of its examples."""
        return range(self.begin, self.end)

    def select(self, arrays: Sequence[Any]) -> Any:
        """Its examples in arrays, ``array[begin:end]``: those of a single one, or a tuple of several."""
        found = tuple(array[self.begin : self.end] for array in arrays)
        return found[0] if len(found) == 1 else found


class ShardQueue:
    """Shards that a member holds: those that are still to be yielded, and those that its next step completes.

    Args:
        session: resource name of the session.
        worker: name of the worker.
        joined: the server's answer.
        timeout: seconds that a call may take.
    """

    def __init__(
        self, session: str, worker: str, joined: workers.JoinSessionResponse, timeout: float
    ) -> None:
        self._session, self._worker, self._epoch = session, worker, joined.epoch
        self._wait = min(joined.lease_seconds / WAITS_PER_LEASE, timeout / 2)
        self._ahead: deque[Shard] = deque()
        self._yielded: list[Shard] = []
        self._is_unsettled = False

    def take(self, ahead: int) -> CallSequence[Shard | None]:
        """Takes the next shard, leasing some once there are any; None if there will be none.

        Args:
            ahead: shards to lease in the same call.
        """
        if self._is_unsettled:
            self._ahead.extendleft(reversed(self._yielded))
            self._yielded, self._is_unsettled = [], False
        while not self._ahead:
            answer = yield self._make_acquisition(len(self._yielded) + 1 + ahead)
            leased = map(Shard.from_message, answer.shards)
            self._ahead.extend(shard for shard in leased if shard not in self._yielded)
            if answer.finished or answer.shards:
                break
        if not self._ahead:
            return None
        shard = self._ahead.popleft()
        self._yielded.append(shard)
        return shard

    @contextmanager
    def complete_with_step(self) -> Iterator[list[int]]:
        """Numbers of the shards that a step completes; they stay what they are if it fails."""
        self._is_unsettled = True
        try:
            yield [shard.number for shard in self._yielded]
        except errors.ShardNotHeld:
            self._forget_shards()
            raise

    def record_outcome(self, outcome: StepOutcome | None) -> None:
        """Takes the outcome of the step."""
        if outcome in (StepOutcome.APPLIED, StepOutcome.ACCUMULATED):
            self._yielded, self._is_unsettled = [], False

    def make_release(self) -> Call[None]:
        """Returns the call that gives all shards back."""
        request = workers.ReleaseShardsRequest(
            session=self._session, worker=self._worker, worker_epoch=self._epoch
        )
        return Call(lambda stubs: stubs.workers.ReleaseShards, request, lambda _: self._forget_shards())

    def _make_acquisition(self, count: int) -> Call[workers.AcquireShardsResponse]:
        request = workers.AcquireShardsRequest(
            session=self._session,
            worker=self._worker,
            worker_epoch=self._epoch,
            count=count,
            wait_seconds=self._wait,
        )
        return Call(lambda stubs: stubs.workers.AcquireShards, request, lambda answer: answer)

    def _forget_shards(self) -> None:
        self._ahead.clear()
        self._yielded, self._is_unsettled = [], False


def torch_dataset(examples: Callable[[], Iterator[Any]]) -> Any:
    """A ``torch.utils.data.IterableDataset`` of what ``examples`` yields."""
    from torch.utils.data import IterableDataset, get_worker_info

    class ShardDataset(IterableDataset):  # type: ignore[misc]  # PyTorch is optional
        def __iter__(self) -> Iterator[Any]:
            if get_worker_info() is not None:
                raise RuntimeError("shards are leased by the process that steps; use num_workers=0")
            return examples()

    return ShardDataset()
