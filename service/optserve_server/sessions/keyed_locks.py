"""Locks by key."""

from __future__ import annotations

import asyncio
import weakref


class KeyedLocks:
    """A lock for each key, which exists while it is held or awaited."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def __getitem__(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())
