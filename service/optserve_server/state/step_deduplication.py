"""Step deduplication: the answered steps of each worker."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Container, Sequence
from typing import Any

from optserve_server.errors import DomainError, Reason
from optserve_server.state.step_result import StepOutcome, StepResult

RESULTS_KEPT = 64
"""Results kept of each worker: how many steps it may have in flight and still repeat."""

WORKERS_KEPT = 1024
"""Workers that are no members, stored for each session; beyond it the least recently active is dropped."""


@dataclasses.dataclass
class _Record:
    """The last sequence of one worker, and the results up to it."""

    last: int = 0
    answered: deque[tuple[bytes, StepResult]] = dataclasses.field(
        default_factory=lambda: deque(maxlen=RESULTS_KEPT)
    )


class StepDeduplication:
    """The answered steps of a session's workers."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()

    @classmethod
    def of(cls, state: Sequence[Any]) -> StepDeduplication:
        """The ledger that `state` described."""
        ledger = cls()
        for worker, last, answered in state:
            record = ledger._records[str(worker)] = _Record(int(last))
            for digest, result in answered:
                record.answered.append((bytes.fromhex(digest), _result(result)))
        return ledger

    def state(self) -> list[Any]:
        """What JSON can say of it: for each worker its last sequence, and digests and results."""
        return [
            (worker, record.last, [(digest.hex(), dataclasses.asdict(r)) for digest, r in record.answered])
            for worker, record in self._records.items()
        ]

    def next_sequence(self, worker: str) -> int:
        """The sequence that the worker's next step must carry, from 1."""
        record = self._records.get(worker)
        return 1 if record is None else record.last + 1

    def is_next(self, worker: str, sequence: int) -> bool:
        """Whether that is the worker's next step; False if it was answered before.

        Raises:
            DomainError: SEQUENCE_GAP (metadata ``expected``) or SEQUENCE_EXPIRED.
        """
        record = self._records.get(worker)
        expected = 1 if record is None else record.last + 1
        if sequence == expected:
            return True
        metadata = {"expected": expected, "actual": sequence}
        if sequence > expected:
            raise _deduplication_error(Reason.SEQUENCE_GAP, f"expected sequence {expected}", metadata)
        assert record is not None
        if record.last - sequence >= len(record.answered):
            raise _deduplication_error(Reason.SEQUENCE_EXPIRED, "its result is no longer stored", metadata)
        return False

    def lookup(self, worker: str, sequence: int, digest: bytes) -> StepResult:
        """The stored result of a step that was answered before: one that `is_next` is False of.

        Raises:
            DomainError: SEQUENCE_REUSED.
        """
        record = self._records[worker]
        known, result = record.answered[sequence - record.last - 1]
        if known != digest:
            metadata = {"expected": record.last + 1, "actual": sequence}
            raise _deduplication_error(Reason.SEQUENCE_REUSED, "it was used with another content", metadata)
        return dataclasses.replace(result, replayed=True)

    def remember(self, worker: str, digest: bytes, result: StepResult, members: Container[str] = ()) -> None:
        """Stores the result of the worker's next sequence.

        Args:
            worker: its name.
            digest: fingerprint of the step's content.
            result: the result.
            members: workers whose results are not dropped.
        """
        record = self._records.get(worker)
        if record is None:
            record = self._records[worker] = _Record()
            self._drop_others(members)
        record.last += 1
        record.answered.append((digest, result))
        self._records.move_to_end(worker)

    def _drop_others(self, members: Container[str]) -> None:
        if len(self._records) > WORKERS_KEPT:
            others = [worker for worker in self._records if worker not in members]
            for worker in others[:-WORKERS_KEPT]:
                del self._records[worker]


def _result(state: dict[str, Any]) -> StepResult:
    norms = tuple((name, norm) for name, norm in state["tensor_norms"])
    return StepResult(**{**state, "outcome": StepOutcome(state["outcome"]), "tensor_norms": norms})


def _deduplication_error(reason: Reason, why: str, metadata: dict[str, int]) -> DomainError:
    text = f"sequence {metadata['actual']} is rejected: {why}"
    return DomainError(reason, text, field="options.sequence", metadata=metadata)
