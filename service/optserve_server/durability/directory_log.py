"""Changes of the data directory itself: recorded in the journal, then applied by moving files.

A session is created or deleted, and a snapshot made or deleted, by moving files: from where they were
written to their place, or from their place to the trash. The record of such a change is its commit
point. Changes are made one after the other, so at most the last record of a journal is not applied;
recovery applies it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.request_ledger import AnsweredRequest
from optserve_server.state.session_change import ChangeKind
from optserve_server.storage.catalog import TRASH, Move, is_kept_snapshot
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.durable_positions import DurablePositions
from optserve_server.storage.failpoints import hit_failpoint
from optserve_server.storage.files import Disk, rename_durably
from optserve_server.storage.journal import Journal
from optserve_server.storage.journal_history import JournalHistory
from optserve_server.storage.record_payload import pack_payload, unpack_payload

DIRECTORY = 2
"""Owner of the directory's records; the owners of sessions are odd."""

MAX_CHECKPOINT_ANSWERS = 1024
"""Answered requests of each namespace that a checkpoint holds."""

MAX_DROPPED = 64
"""Deleted snapshots of each session that are remembered: more than stay beside the latest."""

_CHECKPOINT = "checkpoint"
_log = logging.getLogger(__name__)


def folder_name(namespace: str, session_id: str) -> str:
    """The name of a session's folder."""
    return f"{urllib.parse.quote(namespace, safe='')}@{session_id}" if namespace else session_id


def parse_folder_name(folder: str) -> tuple[str, str]:
    """The namespace and the id of the session of that folder."""
    namespace, _, session_id = folder.rpartition("@")
    return urllib.parse.unquote(namespace), session_id


class DirectoryLog:
    """Records and applies changes of the directory. Safe to use from any thread.

    A checkpoint is a record that states what all earlier ones led to.

    Args:
        disk: the disk.
        root: the data directory.
        namespaces: get the answers to the requests that were recorded.

    Attributes:
        folders: owners of the sessions that were created and not deleted, by the names of their folders.
        kept: paths of the snapshots that clients asked for, from the root of the directory.
        dropped: automatic snapshots that clients deleted lately, by the names of their sessions' folders.
        is_complete: whether all records were read; otherwise there may be other sessions and snapshots.
        saved_number: how many records the last checkpoint covers.
        pending_moves: what the last record moves and is still where it was.
        outdated: whether to write a checkpoint: earlier records take up room, or one of them is
            damaged or of a change that was not made.
    """

    def __init__(self, disk: Disk, root: Path, namespaces: Namespaces) -> None:
        self._disk, self._root, self._namespaces = disk, root, namespaces
        self._journal: Journal | None = None
        self._number = self.saved_number = 0
        self.folders: dict[str, int] = {}
        self.kept: set[str] = set()
        self.dropped: dict[str, list[str]] = {}
        self.is_complete = True
        self.pending_moves: list[Move] = []
        self.outdated = False
        self._turn = threading.Lock()

    def recover(self, history: JournalHistory, positions: DurablePositions) -> None:
        """Reads the records since the last checkpoint; `redo_moves` completes the last one."""
        records = history.find_records(DIRECTORY)
        for found in records:
            if found.payload is not None and unpack_payload(found.payload)[0]["kind"] == _CHECKPOINT:
                self.saved_number = found.number - 1
        try:
            payloads = history.find_payloads_after(DIRECTORY, self.saved_number, positions)
        except DamagedError as error:
            _log.error(
                "the directory's own records are damaged: answers to earlier requests are lost, and sessions"
                " whose folders are missing are not known: %s",
                error,
            )
            self.saved_number = max(positions[DIRECTORY], *(found.number for found in records), 0)
            self.outdated, self.is_complete, payloads = True, False, []
        for payload in payloads:
            self._restore_record(unpack_payload(payload)[0])
        if payloads:
            moves = unpack_payload(payloads[-1])[0].get("moves", ())
            self.pending_moves = [
                (self._root / s, self._root / t) for s, t in moves if (self._root / s).exists()
            ]
        self._number = self.saved_number + len(payloads)

    def attach_journal(self, journal: Journal) -> None:
        """Begins to record changes there."""
        self._journal = journal

    def commit(
        self,
        kind: ChangeKind,
        folder: str,
        moves: Sequence[Move],
        answered: AnsweredRequest | None = None,
        owner: int = 0,
    ) -> None:
        """Makes a change; blocks until it is durable.

        Args:
            kind: what it is.
            folder: name of the session's folder.
            moves: files and folders that get another place; their contents are durable. What is
                moved to the trash is deleted.
            answered: the request that it answers, if the answer is in no snapshot.
            owner: owner of the records of a session that is created.

        Raises:
            OSError: nothing was changed.
        """
        places = [(str(s.relative_to(self._root)), str(t.relative_to(self._root))) for s, t in moves]
        answer = answered.to_json() if answered is not None and answered.request.key else None
        facts = {"kind": kind, "folder": folder, "moves": places, "answered": answer}
        if owner:
            facts["owner"] = f"{owner:016x}"
        with self._turn:
            if self.outdated:
                self._append_checkpoint()
            for parent in {source.parent for source, _ in moves}:
                self._disk.sync_folder(parent)
            self._append_record(facts)
            hit_failpoint("before-apply")
            self._apply_moves(moves)
            hit_failpoint("after-apply")
            self._number += 1
            self._restore_record(facts)
        for _, target in moves:
            if target.parent.name == TRASH:
                with contextlib.suppress(OSError):  # the next start tries again
                    self._disk.remove(target)
        hit_failpoint("before-ack")

    def checkpoint(self) -> None:
        """Makes all earlier records unnecessary.

        Raises:
            OSError: it could not be recorded.
        """
        with self._turn:
            self._append_checkpoint()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Makes no change while the block runs; the last one is complete.

        Raises:
            OSError: a change that failed before is still to be superseded, and the disk refuses that.
        """
        with self._turn:
            if self.outdated:
                self._append_checkpoint()
            yield

    def _append_checkpoint(self) -> None:
        answers = {n.name: n.requests.to_json(DIRECTORY, MAX_CHECKPOINT_ANSWERS) for n in self._namespaces}
        # Of the same number as a record whose change was not made, which it supersedes.
        folders = {name: f"{owner:016x}" for name, owner in sorted(self.folders.items())}
        facts = {"kind": _CHECKPOINT, "folders": folders, "kept": sorted(self.kept), "answers": answers}
        facts["dropped"] = self.dropped
        self._append_record(facts)
        self.saved_number = self._number
        self._number += 1
        self.outdated = False

    def _append_record(self, facts: Mapping[str, Any]) -> None:
        assert self._journal is not None
        self._journal.append_and_wait(DIRECTORY, self._number + 1, pack_payload(facts))

    def _apply_moves(self, moves: Sequence[Move]) -> None:
        for done, (source, target) in enumerate(moves, start=1):
            try:
                rename_durably(self._disk, source, target)
            except OSError:
                self.outdated = True
                with contextlib.suppress(OSError):
                    for before, after in reversed(moves[:done]):
                        self._disk.replace(after, before)
                with contextlib.suppress(OSError):
                    self._append_checkpoint()
                raise

    def redo_moves(self) -> None:
        """Completes the last change."""
        for source, target in self.pending_moves:
            with contextlib.suppress(OSError):
                # A power failure may leave a folder in both places.
                if target.parent.name == TRASH:
                    self._disk.remove(target)
                rename_durably(self._disk, source, target)

    def _restore_record(self, facts: Mapping[str, Any]) -> None:
        if facts["kind"] == _CHECKPOINT:
            self.folders = {name: int(owner, 16) for name, owner in facts["folders"].items()}
            self.kept, self.dropped = set(facts["kept"]), facts["dropped"]
            answers = facts["answers"]
        else:
            name = facts["folder"]
            if facts["kind"] == ChangeKind.DELETE:
                self.folders.pop(name, None)
                self.kept = {path for path in self.kept if path.split("/")[1] != name}
                self.dropped.pop(name, None)
            elif "owner" in facts:
                self.folders[name] = int(facts["owner"], 16)
            for source, target in facts["moves"]:
                self.kept.discard(source)
                if facts["kind"] == ChangeKind.DROP and target.startswith(f"{TRASH}/"):
                    self.dropped[name] = [*self.dropped.get(name, []), source][-MAX_DROPPED:]
                if is_kept_snapshot(target):
                    self.kept.add(target)
            answers = {
                parse_folder_name(facts["folder"])[0]: [facts["answered"]] if facts["answered"] else []
            }
        for namespace, states in answers.items():
            for state in states:
                self._namespaces[namespace].requests.remember_answer(
                    AnsweredRequest.from_json(state, DIRECTORY)
                )
