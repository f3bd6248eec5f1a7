"""Step deduplication: the answered steps of each worker."""

from __future__ import annotations

import dataclasses
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Sequence
from typing import Any

from optserve_server.errors import DomainError, Reason
from optserve_server.state.step_result import StepOutcome, StepResult

RESULTS_KEPT = 64
"""Results kept of each worker: how many steps it may have in flight and still repeat."""

WORKERS_KEPT = 1024
"""Workers that are no members, stored for each session; beyond it the least recently active is dropped."""

ListMembers = Callable[[], Container[str]]

MAX_STORED_NORMS = 1 << 21
"""Norms of tensors in the results of a session, of 8 bytes each. Beyond it, those of the least recently
active workers are dropped, but for the last of each."""


@dataclasses.dataclass(slots=True)
class _Answered:
    """A step's digest and result; its norms by tensor are stored apart, because a pair takes 100 bytes."""

    digest: bytes
    result: StepResult
    names: tuple[str, ...] = ()
    norms: Sequence[float] = ()

    def whole_result(self) -> StepResult:
        """The result as it was answered."""
        if not self.names:
            return self.result
        return dataclasses.replace(self.result, tensor_norms=tuple(zip(self.names, self.norms, strict=True)))


@dataclasses.dataclass
class _Record:
    """The last sequence of one worker, and the results up to it."""

    last: int = 0
    answered: deque[_Answered] = dataclasses.field(default_factory=lambda: deque(maxlen=RESULTS_KEPT))


class StepDeduplication:
    """The answered steps of a session's workers."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._names: tuple[str, ...] = ()
        self._norm_count = 0

    @classmethod
    def from_json(cls, state: Sequence[Any]) -> StepDeduplication:
        """The ledger that `to_json` described."""
        ledger = cls()
        for worker, last, answered in state:
            record = ledger._records[str(worker)] = _Record(int(last))
            for digest, result in answered:
                ledger._store(record, bytes.fromhex(digest), _decode_result(result))
        return ledger

    def to_json(self) -> list[Any]:
        """What JSON can say of it: for each worker its last sequence, and digests and results."""
        return [
            (
                worker,
                record.last,
                [(one.digest.hex(), dataclasses.asdict(one.whole_result())) for one in record.answered],
            )
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

    def find_result(self, worker: str, sequence: int, digest: bytes) -> StepResult:
        """The stored result of a step that was answered before: one that `is_next` is False of.

        Raises:
            DomainError: SEQUENCE_REUSED.
        """
        record = self._records[worker]
        known = record.answered[sequence - record.last - 1]
        if known.digest != digest:
            metadata = {"expected": record.last + 1, "actual": sequence}
            raise _deduplication_error(Reason.SEQUENCE_REUSED, "it was used with another content", metadata)
        return dataclasses.replace(known.whole_result(), replayed=True)

    def remember_result(
        self, worker: str, digest: bytes, result: StepResult, list_members: ListMembers = tuple
    ) -> None:
        """Stores the result of the worker's next sequence.

        Args:
            worker: its name.
            digest: fingerprint of the step's content.
            result: the result.
            list_members: lists workers whose results are not dropped.
        """
        records = self._records
        record = records.get(worker)
        if record is None:
            record = records[worker] = _Record()
            self._drop_others(list_members)
        record.last += 1
        records.move_to_end(worker)
        self._store(record, digest, result)

    def _drop_others(self, list_members: ListMembers) -> None:
        if len(self._records) > WORKERS_KEPT:
            members = list_members()
            others = [worker for worker in self._records if worker not in members]
            for worker in others[:-WORKERS_KEPT]:
                dropped = self._records.pop(worker)
                self._norm_count -= sum(len(one.names) for one in dropped.answered)

    def _store(self, record: _Record, digest: bytes, result: StepResult) -> None:
        answered = record.answered
        if self._norm_count and len(answered) == RESULTS_KEPT:
            self._drop_oldest(record)
        if not result.tensor_norms:
            answered.append(_Answered(digest, result))
            return
        names, norms = zip(*result.tensor_norms, strict=True)
        if names != self._names:
            self._names = names  # steps have the same tensors, as a rule
        bare = dataclasses.replace(result, tensor_norms=())
        answered.append(_Answered(digest, bare, self._names, array("d", norms)))
        self._norm_count += len(names)
        if self._norm_count > MAX_STORED_NORMS:
            self._drop_norms()

    def _drop_norms(self) -> None:
        for record in self._records.values():
            while len(record.answered) > 1:
                self._drop_oldest(record)
                if self._norm_count <= MAX_STORED_NORMS:
                    return

    def _drop_oldest(self, record: _Record) -> None:
        self._norm_count -= len(record.answered.popleft().names)


def _decode_result(state: dict[str, Any]) -> StepResult:
    norms = tuple((name, norm) for name, norm in state["tensor_norms"])
    return StepResult(**{**state, "outcome": StepOutcome(state["outcome"]), "tensor_norms": norms})


def _deduplication_error(reason: Reason, why: str, metadata: dict[str, int]) -> DomainError:
    text = f"sequence {metadata['actual']} is rejected: {why}"
    return DomainError(reason, text, field="options.sequence", metadata=metadata)
