"""Coroutines that run to their end, whatever happens to the call that waits for them.

A change of a session must not stop between its record and its application because a client hung
up. `asyncio.shield` around a task does that as well, but a task waits for a turn of the event loop
before it begins, even if it never has to wait for anything; most steps of small sessions do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_running: set[_Run] = set()
"""The coroutines that wait; the event loop itself holds only weak references."""


class _Run:
    """A coroutine, driven by the futures that it waits for.

    Args:
        coroutine: the coroutine. It may await futures, but must not use what asks for the running
            task, such as `asyncio.timeout`.

    Attributes:
        outcome: settled at its end; None if it ended before it waited for anything.
    """

    __slots__ = ("__weakref__", "_coroutine", "outcome", "result")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.outcome: asyncio.Future[Any] | None = None
        self.result: Any = None

    def begin(self) -> bool:
        """Runs it until it waits; True if it ended instead. Its error is raised here."""
        try:
            waiting = self._coroutine.send(None)
        except StopIteration as ended:
            self.result = ended.value
            return True
        self.outcome = asyncio.get_running_loop().create_future()
        _running.add(self)
        self._await(waiting)
        return False

    def _await(self, waiting: Any) -> None:
        if waiting is None:  # asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            waiting._asyncio_future_blocking = False
            waiting.add_done_callback(self._go_on)

    def _go_on(self, _: object = None) -> None:
        assert self.outcome is not None
        try:
            waiting = self._coroutine.send(None)
        except StopIteration as ended:
            _running.discard(self)
            if not self.outcome.done():
                self.outcome.set_result(ended.value)
        except BaseException as error:
            _running.discard(self)
            if not self.outcome.done():
                self.outcome.set_exception(error)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
        else:
            self._await(waiting)


async def to_completion(coroutine: Coroutine[Any, Any, T]) -> T:
    """Awaits a coroutine, which goes on to its end if the caller is cancelled meanwhile.

    Args:
        coroutine: begins at once; see `_Run` for what it may await.

    Returns:
        What it returns.

    Raises:
        BaseException: what it raises.
    """
    run = _Run(coroutine)
    if run.begin():
        result: T = run.result
        return result
    assert run.outcome is not None
    awaited: T = await run.outcome
    return awaited
