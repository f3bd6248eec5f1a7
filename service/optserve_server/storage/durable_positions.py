"""Durable positions: the last acknowledged record of each session.

A record that is damaged at the end of the journal may never have been acknowledged: the
power may have failed while it was written. Or it was, and the disk has lost it since. So
after every sync the numbers of the durable records are written to a table. The write goes to the
page cache: that survives the process, and reaches the disk with the next write-back. The table may
lag behind the journal, and is never ahead of it.

The table's blocks are allocated before they are used, and it is written by calls, not through a
mapping: on a full disk a call fails with an error, but a store to mapped memory ends the process.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

import xxhash

from optserve_server.storage.files import Disk

_ENTRY = struct.Struct("<QQQ")
_CHECKED = struct.Struct("<QQ")
_SLOT = 2 * _ENTRY.size
_GROWTH = 1024 * _SLOT

_log = logging.getLogger(__name__)


class DurablePositions:
    """The table: two entries a session, written alternately, so that one of them is whole.

    Args:
        disk: where.
        path: the file; made where it is not there.

    Raises:
        OSError: the file cannot be read, or its blocks cannot be allocated.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self._lock = threading.Lock()
        self._fd = disk.open(path, os.O_RDWR | os.O_CREAT)
        self._disk = disk
        self._path = path
        self._slots: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._lagging: set[int] = set()
        self._size = max(_GROWTH, os.fstat(self._fd).st_size // _GROWTH * _GROWTH)
        try:
            disk.allocate(self._fd, self._size)
            data = os.pread(self._fd, self._size, 0)
        except OSError:
            disk.close(self._fd)
            raise
        slots = range(self._size // _SLOT)
        self._free = [slot for slot in reversed(slots) if not self._read(data, slot)]

    def __getitem__(self, owner: int) -> int:
        """The number of the owner's last acknowledged record; 0 if none is known."""
        return self._numbers.get(owner, 0)

    def add_owner(self, owner: int) -> None:
        """Allocates the entries of an owner that has no record yet.

        Raises:
            OSError: there is no space for them.
        """
        with self._lock:
            self._allocate_slot(owner)

    def note(self, owner: int, number: int) -> None:
        """Notes that the owner's records up to ``number`` are durable. Thread-safe.

        A write that fails is repeated with the owner's next one: the records are durable anyway.
        """
        with self._lock:
            if number <= self[owner]:
                return
            self._numbers[owner] = number
            check = xxhash.xxh3_64_intdigest(_CHECKED.pack(owner, number))
            entry = _ENTRY.pack(owner, number, check)
            try:
                slot = self._allocate_slot(owner)
                self._disk.write(self._fd, [entry], slot * _SLOT + number % 2 * _ENTRY.size)
            except OSError as error:
                if owner not in self._lagging:
                    _log.warning("%s does not have the last record of an owner: %s", self._path, error)
                self._lagging.add(owner)
            else:
                self._lagging.discard(owner)

    def retain_owners(self, owners: Iterable[int]) -> None:
        """Forgets all others."""
        for owner in self._slots.keys() - set(owners):
            self.remove_owner(owner)

    def remove_owner(self, owner: int) -> None:
        """Forgets an owner.

        Raises:
            OSError: its entries could not be overwritten; it is forgotten until the next start.
        """
        with self._lock:
            slot = self._slots.pop(owner, None)
            self._numbers.pop(owner, None)
            self._lagging.discard(owner)
            if slot is not None:
                self._disk.write(self._fd, [bytes(_SLOT)], slot * _SLOT)
                self._free.append(slot)

    def close(self) -> None:
        """Writes the table to the disk."""
        try:
            self._disk.sync(self._fd)
        finally:
            self._disk.close(self._fd)

    def _allocate_slot(self, owner: int) -> int:
        slot = self._slots.get(owner)
        if slot is None:
            if not self._free:
                size = self._size + _GROWTH
                self._disk.allocate(self._fd, size)
                self._free.extend(reversed(range(self._size // _SLOT, size // _SLOT)))
                self._size = size
            slot = self._slots[owner] = self._free.pop()
        return slot

    def _read(self, data: bytes, slot: int) -> bool:
        """Reads a slot. Returns whether it is taken."""
        taken = False
        for place in (slot * _SLOT, slot * _SLOT + _ENTRY.size):
            owner, number, check = _ENTRY.unpack_from(data, place)
            if owner and check == xxhash.xxh3_64_intdigest(_CHECKED.pack(owner, number)):
                self._slots[owner] = slot
                self._numbers[owner] = max(number, self._numbers.get(owner, 0))
                taken = True
        return taken
