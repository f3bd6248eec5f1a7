"""Methods for asyncio that are made of those for threads, and so have their names, arguments and docstrings.

Such a method prepares a call, has its connection make it, and returns what that returns. A connection for
asyncio returns a coroutine, with the same result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Closing(Protocol):
    """An asynchronous context manager that returns itself."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


C = TypeVar("C", bound=Closing)


class Opening(Generic[C]):
    """The result of a call: ``await`` returns it, and ``async with`` also closes it.

    Args:
        coroutine: makes the call.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, C]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, C]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> C:
        self._opened = await self._coroutine
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.__aexit__(kind, error, trace)


def make_awaitable(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Returns a method that is awaited, of one that returns what its connection does."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return method(self, *args, **kwargs)

    return call


def make_opening(
    method: Callable[Concatenate[Any, P], object], result: type[C]
) -> Callable[Concatenate[Any, P], Opening[C]]:
    """Returns a method that is awaited or entered, of one that returns what its connection does.

    Args:
        method: the method.
        result: what it returns when it is awaited.
    """

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Opening[C]:
        made: Any = method(self, *args, **kwargs)
        return Opening(made)

    return call
