"""Notes of requests that delete a session, or make or delete a snapshot.

Such a request leaves files or removes them, and no record in the journal. It is noted before it
is done, so that after a crash the next start knows what was asked: it completes a deletion, and
looks whether a snapshot got its place. So a request that is repeated then gets its first answer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import xxhash

from optserve_server.storage.files import Disk, write_whole

MAX_INTENTS = 1024
"""Requests that are remembered."""

MAX_INTENTS_PER_SESSION = 64
"""Requests that are remembered of one session."""


class IntentKind(StrEnum):
    """Kind of an intent."""

    DELETE = "delete"
    """That a session is deleted."""
    SAVE = "save"
    """That snapshots are made."""
    DROP = "drop"
    """That snapshots are deleted."""


_log = logging.getLogger(__name__)


@dataclass
class Intent:
    """A request.

    Attributes:
        kind: what it asks for.
        folder: the session's folder.
        owner: the session's owner; a folder of that name with another one is another session.
        request: its idempotency key; empty for none.
        content: a digest of what it asks for.
        answer: what it is answered, as text.
        files: names of the snapshots that it makes or deletes.
        done: whether that is so; may be False on the disk where it is.
    """

    kind: IntentKind
    folder: str
    owner: int
    request: str = ""
    content: str = ""
    answer: str = ""
    files: tuple[str, ...] = ()
    done: bool = False


class IntentLog:
    """The last requests. Thread-safe.

    Args:
        disk: where.
        path: the file.

    Attributes:
        outdated: whether the file may say what is not so, because the disk refused another one;
            then `settle` is to be called again.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk, self._path = disk, path
        self._turn = threading.Lock()
        self._notes = self._read()
        self.outdated = False

    def all(self) -> list[Intent]:
        """All that are known, the oldest first."""
        with self._turn:
            return list(self._notes)

    @contextlib.contextmanager
    def noting(self, note: Intent) -> Iterator[None]:
        """Notes what the block does; withdraws it where that fails.

        Raises:
            OSError: it cannot be noted; then the block is not entered.
        """
        try:
            with self._turn:
                self._notes = _last([*self._notes, note])
                self._write()
            yield
        except BaseException:
            self.settle([note])
            raise
        # On the disk with the next note, which precedes any other file of the same name.
        note.done = True

    def settle(self, gone: Collection[Intent] = ()) -> None:
        """Forgets requests, and writes what is known of the others."""
        with self._turn:
            self._notes = [note for note in self._notes if not any(note is one for one in gone)]
            with contextlib.suppress(OSError):
                self._write()

    def _write(self) -> None:
        self.outdated = True
        write_whole(self._disk, self._path, [_text([asdict(note) for note in self._notes])])
        self.outdated = False

    def _read(self) -> list[Intent]:
        try:
            stated = json.loads(bytes(self._disk.read(self._path)))
            if stated["checksum"] != _check(stated["notes"]):
                raise ValueError("the checksum is wrong")
            return [_note(fields) for fields in stated["notes"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            _log.error("%s is damaged, so earlier requests are forgotten: %s", self._path.name, error)
            return []


def _last(notes: list[Intent]) -> list[Intent]:
    """Those that are kept; what was asked of a session goes with it."""
    deleted = {note.owner for note in notes if note.kind is IntentKind.DELETE and note.done}
    counts: Counter[int] = Counter()
    kept = []
    for note in reversed(notes):
        if note.kind is not IntentKind.DELETE:
            counts[note.owner] += 1
            if note.owner in deleted or counts[note.owner] > MAX_INTENTS_PER_SESSION:
                continue
        kept.append(note)
    return kept[:MAX_INTENTS][::-1]


def _note(fields: dict[str, Any]) -> Intent:
    return Intent(**{**fields, "kind": IntentKind(fields["kind"]), "files": tuple(fields["files"])})


def _text(notes: list[dict[str, Any]]) -> bytes:
    return json.dumps({"notes": notes, "checksum": _check(notes)}).encode()


def _check(notes: object) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(notes, sort_keys=True).encode())
