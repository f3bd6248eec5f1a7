"""Descriptions of calls, which clients with threads and with coroutines make alike."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

from optserve._transport.stubs import Stubs

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A unary call.

    Attributes:
        method: selects the method.
        request: the message that is sent.
        decode: converts the answer's message into the result.
    """

    method: Callable[[Stubs], Any]
    request: Any
    decode: Callable[[Any], T]

    def then(self, convert: Callable[[T], U]) -> Call[U]:
        """Returns the same call with a further conversion of its result."""
        return Call(self.method, self.request, lambda answer: convert(self.decode(answer)))


CallSequence: TypeAlias = Generator[Call[Any], Any, T]
"""Calls that depend on results of earlier ones: yields each, is sent its result, and returns the last."""


@dataclass(frozen=True, slots=True)
class Upload(Generic[T]):
    """A call with many messages and one answer.

    Attributes:
        method: selects the method.
        messages: makes the encoded messages, from the first one at each attempt.
        decode: converts the answer's message into the result.
        byte_count: how many bytes they carry.
        reads_file: whether making the messages reads a file.
    """

    method: Callable[[Stubs], Any]
    messages: Callable[[], Generator[bytes, None, None]]
    decode: Callable[[Any], T]
    byte_count: int
    reads_file: bool = False

    def then(self, convert: Callable[[T], U]) -> Upload[U]:
        """Returns the same call with a further conversion of its result."""
        return Upload(
            self.method,
            self.messages,
            lambda answer: convert(self.decode(answer)),
            self.byte_count,
            self.reads_file,
        )


class Reception(Protocol[T_co]):
    """What the messages of one answer are put together in; a context that ends with the attempt."""

    def accept(self, message: Any) -> T_co | None:
        """Takes the next message; returns the result when it is complete."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


@dataclass(frozen=True, slots=True)
class Download(Generic[T]):
    """A call with one request and an answer of many messages.

    Attributes:
        method: selects the method.
        request: the message that is sent.
        begin: makes what an attempt's messages are put together in.
        decode: converts what these return into the result.
        timeout: seconds that the call may take.
    """

    method: Callable[[Stubs], Any]
    request: Any
    begin: Callable[[], Reception[Any]]
    decode: Callable[[Any], T]
    timeout: float

    def then(self, convert: Callable[[T], U]) -> Download[U]:
        """Returns the same call with a further conversion of its result."""
        return Download(
            self.method, self.request, self.begin, lambda r: convert(self.decode(r)), self.timeout
        )
