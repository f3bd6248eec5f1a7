"""Coroutines that run to completion even if the call that awaits them is cancelled.

A change of a session must not stop between its record and its application because a client hung
up. `asyncio.shield` around a task does that as well, but a task waits for a turn of the event loop
before it begins, even if it never has to wait for anything; most steps of small sessions do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_waiting: set[ShieldedCoroutine[Any]] = set()
"""Those that wait for something; the event loop itself holds only weak references."""


class ShieldedCoroutine(Generic[T]):
    """Runs a coroutine when it is awaited, and to its end even if the awaiting task is cancelled.

    Args:
        coroutine: the coroutine. It may await futures and coroutines, but must not use what asks
            for the running task, such as `asyncio.timeout`.
    """

    __slots__ = ("__weakref__", "_coroutine", "_outcome")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._outcome: asyncio.Future[T] | None = None

    def __await__(self) -> Generator[Any, None, T]:
        try:
            waiting = self._coroutine.send(None)
        except StopIteration as ended:
            result: T = ended.value
            return result
        self._outcome = asyncio.get_running_loop().create_future()
        _waiting.add(self)
        self._resume_when_done(waiting)
        return (yield from self._outcome)

    def _resume_when_done(self, waiting: Any) -> None:
        """Continues when a future is done, or at the loop's next iteration."""
        if waiting is None:
            asyncio.get_running_loop().call_soon(self._resume_coroutine)
        else:
            waiting._asyncio_future_blocking = False
            waiting.add_done_callback(self._resume_coroutine)

    def _resume_coroutine(self, _: object = None) -> None:
        assert self._outcome is not None
        try:
            waiting = self._coroutine.send(None)
        except StopIteration as ended:
            _waiting.discard(self)
            if not self._outcome.done():
                self._outcome.set_result(ended.value)
        except BaseException as error:
            _waiting.discard(self)
            if not self._outcome.done():
                self._outcome.set_exception(error)
        else:
            self._resume_when_done(waiting)
