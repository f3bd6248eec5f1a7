"""Durable positions: the last acknowledged record of each session.

A record that is damaged at the end of the journal may never have been acknowledged: the
power may have failed while it was written. Or it was, and the disk has lost it since. So
after every sync the numbers of the durable records are written to a table, which is
mapped into memory: that costs nothing, survives the process, and reaches the disk with the
next write-back. The table may lag behind the journal, and is never ahead of it.
"""

from __future__ import annotations

import mmap
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


class DurablePositions:
    """The table: two entries a session, written alternately, so that one of them is whole.

    Args:
        disk: where.
        path: the file; made where it is not there.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self._lock = threading.Lock()
        self._fd = disk.open(path, os.O_RDWR | os.O_CREAT)
        self._disk = disk
        self._map = self._grow_file(max(_GROWTH, os.fstat(self._fd).st_size // _GROWTH * _GROWTH))
        self._slots: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._free: list[int] = []
        slots = range(len(self._map) // _SLOT)
        self._free.extend(slot for slot in reversed(slots) if not self._read_slot(slot))

    def __getitem__(self, owner: int) -> int:
        """The number of the owner's last acknowledged record; 0 if none is known."""
        return self._numbers.get(owner, 0)

    def record_position(self, owner: int, number: int) -> None:
        """Notes that the owner's records up to ``number`` are durable. Thread-safe."""
        with self._lock:
            if number <= self[owner]:
                return
            slot = self._slots.get(owner)
            if slot is None:
                slot = self._slots[owner] = self._allocate_slot()
            check = xxhash.xxh3_64_intdigest(_CHECKED.pack(owner, number))
            _ENTRY.pack_into(self._map, slot * _SLOT + number % 2 * _ENTRY.size, owner, number, check)
            self._numbers[owner] = number

    def retain_owners(self, owners: Iterable[int]) -> None:
        """Forgets all others."""
        for owner in self._slots.keys() - set(owners):
            self.remove_owner(owner)

    def remove_owner(self, owner: int) -> None:
        """Forgets an owner."""
        with self._lock:
            slot = self._slots.pop(owner, None)
            self._numbers.pop(owner, None)
            if slot is not None:
                self._map[slot * _SLOT : (slot + 1) * _SLOT] = bytes(_SLOT)
                self._free.append(slot)

    def close(self) -> None:
        """Writes the table to the disk."""
        self._map.flush()
        self._map.close()
        self._disk.close(self._fd)

    def _grow_file(self, size: int) -> mmap.mmap:
        self._disk.truncate(self._fd, size)
        return mmap.mmap(self._fd, size)

    def _allocate_slot(self) -> int:
        if not self._free:
            slots = len(self._map) // _SLOT
            self._map.close()
            self._map = self._grow_file(slots * _SLOT + _GROWTH)
            self._free.extend(reversed(range(slots, slots + _GROWTH // _SLOT)))
        return self._free.pop()

    def _read_slot(self, slot: int) -> bool:
        """Reads a slot. Returns whether it is taken."""
        taken = False
        for place in (slot * _SLOT, slot * _SLOT + _ENTRY.size):
            owner, number, check = _ENTRY.unpack_from(self._map, place)
            if owner and check == xxhash.xxh3_64_intdigest(_CHECKED.pack(owner, number)):
                self._slots[owner] = slot
                self._numbers[owner] = max(number, self._numbers.get(owner, 0))
                taken = True
        return taken
