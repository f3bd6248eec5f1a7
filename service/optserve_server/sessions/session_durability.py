"""Durability state of a session: journal position, last snapshot."""

from __future__ import annotations

import asyncio
import time
from typing import Generic, Protocol, TypeVar

from optserve_server.resources.budget import Budget
from optserve_server.sessions.request_ledger import RequestLedger
from optserve_server.spec.session_spec import DurabilityMode, DurabilitySpec, SessionSpec
from optserve_server.state.staging import Staging
from optserve_server.storage.catalog import SessionFolder


class DurableSession(Protocol):
    """The part of a session that its durability depends on."""

    spec: SessionSpec
    budget: Budget
    step: int


S = TypeVar("S", bound=DurableSession)


class SessionDurability(Generic[S]):
    """Durability state of a session: journal position, last snapshot.

    Args:
        session: the session.
        requests: the answered requests of its namespace.
        folder: its place.
        number: how many changes it has seen.
        saved_number: how many of them the last snapshot holds.
        saved_step: the session's step there.

    Attributes:
        records: records since the last snapshot.
        record_bytes: their bytes.
        saving: held while a snapshot is written.
        waits: whether a snapshot is about to be written.
        is_incomplete: whether a snapshot is due because one was damaged, or the records that lead to
            this state are no longer in the journal.
        copy: buffer for a copy of a gradient that others may write to; used under the session's lock.
    """

    def __init__(
        self,
        session: S,
        requests: RequestLedger,
        folder: SessionFolder,
        number: int = 0,
        saved_number: int = 0,
        saved_step: int = 0,
    ) -> None:
        self.session = session
        self.requests = requests
        self.folder = folder
        self.number = number
        self.saving = asyncio.Lock()
        self.waits = self.is_incomplete = False
        self.copy: Staging | None = None
        self._gap = self.saved_number = 0
        self.note_saved(saved_number, saved_step)

    @property
    def spec(self) -> DurabilitySpec:
        """How it is to be kept."""
        return self.session.spec.durability or DurabilitySpec()

    @property
    def is_journaled(self) -> bool:
        """Whether every change goes into the journal."""
        return self.spec.mode is DurabilityMode.JOURNAL

    @property
    def has_complete_journal(self) -> bool:
        """Whether every change since the last snapshot is in the journal."""
        return self._gap <= self.saved_number

    @property
    def has_unsaved_changes(self) -> bool:
        """Whether there were changes since the last snapshot."""
        return self.number > self.saved_number

    def durable_step(self, step: int) -> int:
        """The step that would be recovered now if the session is at ``step``."""
        return step if self.is_journaled and self.has_complete_journal else self.saved_step

    def copy_if_shared(self, staging: Staging) -> Staging:
        """A gradient that stays as it is: what is recorded has to be what is applied."""
        if not staging.foreign:
            return staging
        if self.copy is None or self.copy.tensors != staging.tensors:
            self.copy = None  # before there is a second one
            self.copy = Staging(staging.tensors, allocate=self.session.budget.allocate_array)
        self.copy.buffer[:] = staging.buffer
        return self.copy

    def count_recorded(self, byte_count: int) -> None:
        """Counts a change that is in the journal."""
        self.number += 1
        self.records += 1
        self.record_bytes += byte_count

    def count_unrecorded(self) -> None:
        """Counts a change that is not."""
        self.number += 1
        self._gap = self.number

    def note_saved(self, number: int, step: int) -> None:
        """Notes that a snapshot of the state after change ``number`` is durable."""
        if number < self.saved_number:
            return  # one that was begun later was quicker
        self.saved_number, self.saved_step = number, step
        self.is_incomplete = False
        self.saved_at = time.monotonic()
        self.records = self.record_bytes = 0

    def is_snapshot_due(self, now: float) -> bool:
        """Whether it is time for a snapshot under SNAPSHOT."""
        if self.is_journaled or not self.has_unsaved_changes:
            return False
        steps = self.spec.snapshot_steps
        if steps is not None and self.session.step - self.saved_step >= steps:
            return True
        return now - self.saved_at >= self.spec.snapshot_seconds
