"""A coordinated session without a server: its journal is a list, and its clock stands still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.coordination.contribution import Contribution
from optserve_server.coordination.coordinator import Held
from optserve_server.coordination.due_changes import next_due_change
from optserve_server.coordination.membership import Member, MemberState
from optserve_server.coordination.membership_change import EndMemberships, Join
from optserve_server.coordination.shard_change import Acquired, AcquireShards, ReleaseShards
from optserve_server.durability.change_records import replay_record
from optserve_server.errors import DomainError
from optserve_server.sessions.session import Session
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.session_change import Change
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import MemberOptions, StepOptions, StepResult
from optserve_server.wire.specifications.spec_text import SPEC_TEXT
from tests.service.sessions.support import parameters, session_of

Arrays = Mapping[str, npt.NDArray[Any]]


class Waiting:
    """A contribution that waits, or did."""

    def __init__(self, contribution: Contribution) -> None:
        self.contribution = contribution
        self.held: Held | None = None
        self.outcome: StepResult | Exception | None = None
        self.is_decided = False


class Coordinated:
    """A session, driven as `rpc.execution.coordination` drives it, but without waiting.

    Attributes:
        session: the session.
        records: the payloads of its journal.
        now: the time.
        waiting: contributions that wait.
    """

    def __init__(self, spec: SessionSpec, values: Arrays) -> None:
        self.spec, self.values = spec, values
        self.records: list[bytes] = []
        self.now = 0.0
        self.waiting: list[Waiting] = []
        self.session = self._fresh()

    def _fresh(self) -> Session:
        session = session_of(self.spec, self.values)
        session.coordinator.membership.clock = lambda: self.now
        return session

    def restart(self) -> None:
        """Loses everything but the journal, and replays that."""
        self.session, self.waiting = self._fresh(), []
        for payload in self.records:
            replay_record(self.session, memoryview(payload), SPEC_TEXT)

    def make(self, change: Change[Any, Any]) -> Any:
        """Checks, records and applies a change."""
        prepared = change.prepare(self.session)
        if prepared.has_changes:
            self.records.append(b"".join(bytes(piece) for piece in change.encode_record(SPEC_TEXT)))
        return change.execute_decision() if isinstance(change, Contribution) else prepared.commit()

    def join(self, worker: str, lease: float = 10.0) -> Member:
        member: Member = self.make(Join(worker, lease))
        self.settle()
        return member

    def leave(self, worker: str, epoch: int) -> None:
        self.make(EndMemberships(MemberState.LEFT, [(worker, epoch)]))
        self.settle()

    def acquire(self, worker: str, epoch: int, count: int = 1) -> Acquired:
        acquired: Acquired = self.make(AcquireShards(worker, epoch, count))
        self.settle()
        return acquired

    def release(self, worker: str, epoch: int, *shards: int) -> None:
        self.make(ReleaseShards(worker, epoch, shards))
        self.settle()

    def contribute(
        self,
        worker: str,
        epoch: int,
        sequence: int,
        gradients: Arrays,
        at: int | None = None,
        examples: int = 1,
        shards: Sequence[int] = (),
        **options: Any,
    ) -> Waiting:
        """Makes a contribution; what it returns may be settled later."""
        arrays = [NamedArray(name, array) for name, array in gradients.items()]
        asked = StepOptions(
            worker, sequence, member=MemberOptions(epoch, examples, at, tuple(shards)), **options
        )
        waiting = Waiting(Contribution(self.session, self.session.stage_arrays(arrays), asked))
        self._attempt(waiting)
        self.settle()
        return waiting

    def settle(self) -> None:
        """Does what is due, and decides again on what may go on, until nothing changes."""
        for _ in range(1000):
            change = next_due_change(self.session.coordinator)
            decided = [one for one in self.waiting if one.is_decided]
            if change is None and not decided:
                return
            if change is not None:
                try:
                    self.make(change)
                except DomainError as error:
                    self.session.coordinator.handle_failed_step(error)
            for one in decided:
                self.waiting.remove(one)
                assert one.held is not None
                one.outcome = one.held.error or one.held.result
                if one.outcome is None:
                    self._attempt(one)
        raise AssertionError("it does not settle")

    def _attempt(self, waiting: Waiting) -> None:
        waiting.is_decided = False
        try:
            outcome = self.make(waiting.contribution)
        except DomainError as error:
            waiting.outcome = error
            return
        if isinstance(outcome, StepResult):
            waiting.outcome = outcome
            return
        waiting.held = outcome
        self.waiting.append(waiting)
        outcome.add_done_callback(lambda: setattr(waiting, "is_decided", True))

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        return parameters(self.session)


def bits(arrays: Arrays) -> bytes:
    return b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays))
