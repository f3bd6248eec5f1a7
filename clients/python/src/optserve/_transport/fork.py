"""Handling of the parent's connections in a forked process."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any, Protocol


class Forkable(Protocol):
    """An object with state that a forked child must not share with its parent."""

    def after_fork(self) -> None:
        """Starts again in the child, whose other threads do not exist."""
        ...


class NoCall:
    """Replaces a call of the parent."""

    def cancel(self) -> None:
        """Does nothing."""

    def __next__(self) -> None:
        raise StopIteration


_objects: weakref.WeakSet[Forkable] = weakref.WeakSet()
_parents: list[object] = []


def register_after_fork(value: Forkable) -> None:
    """Has ``value.after_fork`` called in every forked child, for as long as it lives."""
    _objects.add(value)


def keep_alive(*values: Any) -> None:
    """Keeps the parent's objects, whose finalizers must not run in a child."""
    _parents.extend(values)


def _after_fork() -> None:
    for value in list(_objects):
        with contextlib.suppress(ReferenceError):
            value.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
