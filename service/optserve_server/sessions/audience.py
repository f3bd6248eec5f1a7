"""Audience of a request: the calls that wait for its answer."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError

ABANDON_AFTER_S = 60.0
"""Seconds without a caller after which the work of a request with an id is ended.

Its client may have lost its connection, and repeats the request within its time-out."""


class Audience:
    """The calls that wait for the answer to one request."""

    def __init__(self) -> None:
        self._count = 0
        self._left_at = time.monotonic()

    @contextlib.contextmanager
    def join(self) -> Iterator[None]:
        """Counts a call until the block ends."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._left_at = time.monotonic()

    def check(self) -> None:
        """Returns, in any thread, unless the request is abandoned.

        Raises:
            CancelledError: no call has waited for it for `ABANDON_AFTER_S`.
        """
        if not self._count and time.monotonic() - self._left_at > ABANDON_AFTER_S:
            raise CancelledError


class Audiences:
    """An audience for each key, which exists while a call or the work refers to it."""

    def __init__(self) -> None:
        self._audiences: weakref.WeakValueDictionary[str, Audience] = weakref.WeakValueDictionary()

    def __getitem__(self, key: str) -> Audience:
        return self._audiences.setdefault(key, Audience())
