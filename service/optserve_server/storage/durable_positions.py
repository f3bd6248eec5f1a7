"""Durable positions: what a data directory must hold, written beside its journal.

For each session, and for the directory itself, the table has the number of the last acknowledged record
and the number that the last snapshot holds. A record that is damaged at the end of the journal may never
have been acknowledged: the power may have failed while it was written. Or it was, and the disk has lost
it since. The table also lists the journal's segments and how long they are, so that one that was removed
or cut off is missed.

After every sync of the journal the numbers are written to the page cache: that survives the process,
and reaches the disk with the next write-back. They may lag behind the journal, and are never ahead of it.
Owners and segments are synced when they are added or removed.

The table's blocks are allocated before they are used, and it is written by calls, not through a
mapping: on a full disk a call fails with an error, but a store to mapped memory ends the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from optserve_server.storage.directory_format import FORMAT, DirectoryError, check_format, check_identity
from optserve_server.storage.files import Disk

POSITIONS = "positions"
"""Name of the file."""

_MARK = b"optspos\n"
_HEADER = struct.Struct("<8sQ16sQ")
_ENTRY = struct.Struct("<QQQQ")
_CHECKED = struct.Struct("<QQQ")
_NOTHING = 0, 0
_SLOT = 2 * _ENTRY.size
_GROWTH = 1024 * _SLOT
_SEGMENTS = 1 << 63

_log = logging.getLogger(__name__)


def segment_owner(segment: int) -> int:
    """Owner of the first record of a segment; those of sessions and of the directory are smaller."""
    return _SEGMENTS + segment


@dataclass
class _Slot:
    """Place of an owner's two entries, and which of them holds the latest numbers."""

    index: int
    latest: int
    is_lagging: bool = False


class DurablePositions:
    """The table: two entries an owner, written alternately, so that one of them is whole.

    Args:
        disk: where.
        path: the file.
        directory: identity of the data directory.
        is_new: whether the file is to be made.

    Attributes:
        damaged: descriptions of entries that are damaged.
        is_new: whether the file was made.

    Raises:
        DirectoryError: it is missing, damaged, of a newer format or of another directory.
        OSError: the file cannot be read, or its blocks cannot be allocated.
    """

    def __init__(self, disk: Disk, path: Path, directory: str, *, is_new: bool = False) -> None:
        if not is_new and not path.exists():
            raise DirectoryError(
                f"{path} is missing, without which no session can be proved complete: restore it, or run"
                " optserve-server repair, which states what may be lost"
            )
        self.damaged: list[str] = []
        self._damaged_slots: list[int] = []
        self.is_new = is_new
        self._lock = threading.Lock()
        self._disk = disk
        self._path = path
        self._fd = disk.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if is_new else 0))
        self._positions: dict[int, tuple[int, int]] = {}
        self._slots: dict[int, _Slot] = {}
        try:
            if is_new:
                disk.allocate(self._fd, _GROWTH)
                disk.write(self._fd, [_make_header(directory)], 0)
                disk.sync(self._fd)
            size = _GROWTH if is_new else os.fstat(self._fd).st_size
            if size % _GROWTH:
                self.damaged.append(f"its length is {size} bytes, no multiple of {_GROWTH}")
            data = b"" if is_new else os.pread(self._fd, size, 0)
            if not is_new:
                _check_header(path, data, directory)
            self._size = max(_GROWTH, size - size % _GROWTH)
            if not is_new:
                # The blocks of a copy may be missing where the original had zeros. On a full disk, a server
                # starts without them, and an owner that needs one is refused.
                with contextlib.suppress(OSError):
                    disk.allocate(self._fd, self._size)
        except BaseException:
            disk.close(self._fd)
            raise
        slots = range(1, self._size // _SLOT)
        data = data[: self._size].ljust(self._size, b"\0")
        self._free = [index for index in reversed(slots) if not self._read(data, index)]

    def __getitem__(self, owner: int) -> int:
        """The number of the owner's last acknowledged record; 0 if none is known."""
        return self._positions.get(owner, _NOTHING)[0]

    def __contains__(self, owner: int) -> bool:
        return owner in self._positions

    def get_saved(self, owner: int) -> int:
        """The number that the owner's last snapshot holds."""
        return self._positions.get(owner, _NOTHING)[1]

    @property
    def owners(self) -> set[int]:
        """Sessions, and the directory."""
        return {owner for owner in self._positions if owner < _SEGMENTS}

    @property
    def segments(self) -> dict[int, int]:
        """How many bytes of the journal's segments are records that were acknowledged, by their numbers."""
        return {owner - _SEGMENTS: end for owner, (end, _) in self._positions.items() if owner >= _SEGMENTS}

    def add_owner(self, owner: int) -> None:
        """Adds an owner that has no record yet; returns when that is durable.

        Raises:
            OSError: there is no space for it, or it could not be synced.
        """
        with self._lock:
            self._add(owner)
        self._disk.sync(self._fd)

    def add_segment(self, segment: int) -> None:
        """Adds a segment, whose file exists; returns when that, and every number, is durable.

        `note` takes the end of its last acknowledged record, in bytes, as the number of its owner.

        Raises:
            OSError: there is no space for it, or it could not be synced.
        """
        self.add_owner(segment_owner(segment))

    def remove_segment(self, segment: int) -> None:
        """Removes a segment, whose file is still there; returns when that is durable.

        Raises:
            OSError: it could not be removed, or not synced.
        """
        self.remove_owner(segment_owner(segment))
        self._disk.sync(self._fd)

    def record_position(self, owner: int, number: int, saved: int = 0) -> None:
        """Notes that the owner's records up to ``number`` are durable. Thread-safe.

        A write that fails is repeated with the owner's next one: the records are durable anyway.

        Args:
            owner: whose records.
            number: the last of them.
            saved: the last that a durable snapshot holds.
        """
        with self._lock:
            before = self._positions.get(owner, _NOTHING)
            position = max(number, before[0]), max(saved, before[1])
            if position == before:
                return
            self._positions[owner] = position
            try:
                self._write(owner, *position)
            except OSError as error:
                slot = self._slots.get(owner)
                if slot is None or not slot.is_lagging:
                    _log.warning("%s does not have the last record of an owner: %s", self._path, error)
                if slot is not None:
                    slot.is_lagging = True

    def retain_owners(self, owners: Iterable[int]) -> None:
        """Forgets all other owners, but no segment.

        Raises:
            OSError: entries could not be overwritten.
        """
        for owner in self.owners - set(owners):
            self.remove_owner(owner)

    def remove_owner(self, owner: int) -> None:
        """Forgets an owner.

        Raises:
            OSError: its entries could not be overwritten; it is forgotten until the next start.
        """
        with self._lock:
            slot = self._slots.pop(owner, None)
            self._positions.pop(owner, None)
            if slot is not None:
                self._disk.write(self._fd, [bytes(_SLOT)], slot.index * _SLOT)
                self._free.append(slot.index)

    def rewrite_damaged(self) -> None:
        """Writes all entries again that were damaged; returns when they are durable.

        Raises:
            OSError: they could not be written.
        """
        with self._lock:
            owners = {slot.index: owner for owner, slot in self._slots.items()}
            for index in self._damaged_slots:
                entry = bytes(_ENTRY.size)
                if index in owners:
                    entry = _make_entry(owners[index], *self._positions[owners[index]])
                    self._slots[owners[index]].latest = 0
                self._disk.write(self._fd, [entry, bytes(_ENTRY.size)], index * _SLOT)
            self._disk.truncate(self._fd, self._size)
            self._disk.sync(self._fd)
            self._damaged_slots, self.damaged = [], []

    def read_all(self) -> bytes:
        """The table as it is now, no entry half written.

        Raises:
            OSError: it could not be read.
        """
        with self._lock:
            return os.pread(self._fd, self._size, 0)

    def close(self) -> None:
        """Writes the table to the disk."""
        try:
            self._disk.sync(self._fd)
        finally:
            self._disk.close(self._fd)

    def _add(self, owner: int) -> None:
        if owner not in self._slots:
            slot = _Slot(self._allocate_slot(), 0)
            # Both entries, because those of an owner before it may not have been overwritten.
            self._disk.write(self._fd, [_make_entry(owner, 0, 0), bytes(_ENTRY.size)], slot.index * _SLOT)
            self._slots[owner] = slot
            self._positions.setdefault(owner, _NOTHING)

    def _write(self, owner: int, number: int, saved: int) -> None:
        slot = self._slots.get(owner)
        if slot is None:
            self._add(owner)
            slot = self._slots[owner]
        place = slot.index * _SLOT + (1 - slot.latest) * _ENTRY.size
        self._disk.write(self._fd, [_make_entry(owner, number, saved)], place)
        slot.latest, slot.is_lagging = 1 - slot.latest, False

    def _allocate_slot(self) -> int:
        if not self._free:
            size = self._size + _GROWTH
            self._disk.allocate(self._fd, size)
            self._free.extend(reversed(range(self._size // _SLOT, size // _SLOT)))
            self._size = size
        return self._free.pop()

    def _read(self, data: bytes, index: int) -> bool:
        """Reads a slot. Returns whether it is taken."""
        slot = data[index * _SLOT : (index + 1) * _SLOT]
        if not any(slot):
            return False
        entries = [_ENTRY.unpack_from(slot, place) for place in (0, _ENTRY.size)]
        sound = [entry for entry in entries if entry[0] and entry[3] == _check(*entry[:3])]
        if len(sound) < sum(any(entry) for entry in entries):
            self.damaged.append(f"entry {index} is damaged")
            self._damaged_slots.append(index)
        if len({entry[0] for entry in sound}) != 1:
            return bool(sound)
        latest = max(sound, key=lambda entry: entry[1:3])
        self._slots[latest[0]] = _Slot(index, entries.index(latest))
        self._positions[latest[0]] = latest[1], latest[2]
        return True


def _make_entry(owner: int, number: int, saved: int) -> bytes:
    return _ENTRY.pack(owner, number, saved, _check(owner, number, saved))


def _check(owner: int, number: int, saved: int) -> int:
    return xxhash.xxh3_64_intdigest(_CHECKED.pack(owner, number, saved))


def _make_header(directory: str) -> bytes:
    fields = _MARK, FORMAT, bytes.fromhex(directory)
    return _HEADER.pack(*fields, xxhash.xxh3_64_intdigest(_HEADER.pack(*fields, 0)))


def _check_header(path: Path, data: bytes, directory: str) -> None:
    """Refuses another file, or a table of another format or directory.

    Raises:
        DirectoryError: it is one, or is damaged.
    """
    if len(data) >= _HEADER.size:
        mark, number, identity, check = _HEADER.unpack_from(data)
        if mark == _MARK and check == xxhash.xxh3_64_intdigest(_HEADER.pack(mark, number, identity, 0)):
            check_format(path, number)
            check_identity(path, identity.hex(), directory)
            if not any(data[_HEADER.size : _SLOT]):
                return
    raise DirectoryError(
        f"{path} is damaged in its header: restore it, or run optserve-server repair, which states what may"
        " be lost"
    )
