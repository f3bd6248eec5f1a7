"""StepStream: many steps over one stream, answered in order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial

from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import DomainError, Reason, within
from optserve_server.rpc.drain import Drain
from optserve_server.rpc.execution import Execution
from optserve_server.rpc.stepping import check_pull, stepped
from optserve_server.sessions.reading import Values
from optserve_server.sessions.result import StepOptions, StepResult
from optserve_server.sessions.session import Session
from optserve_server.sessions.staging import Staging
from optserve_server.wire import sessions
from optserve_server.wire.chunks import Filler, cut
from optserve_server.wire.sessions import Pull
from optserve_server.wire.tensors import wire_dtype_from

Requests = AsyncIterator[pb.StepStreamRequest]


@dataclass(frozen=True)
class _Step:
    session: Session
    staging: Staging
    options: StepOptions
    pull: Pull | None


class StepStream:
    """One stream of steps.

    Args:
        find: gives the session of a resource name.
        execution: where steps are computed.
        drain: ends the stream between two steps when the server shuts down.
        chunk_bytes: how many bytes an answer's chunks hold.
    """

    def __init__(
        self, find: Callable[[str], Session], execution: Execution, drain: Drain, chunk_bytes: int
    ) -> None:
        self._find = find
        self._execution = execution
        self._drain = drain
        self._chunk_bytes = chunk_bytes
        self._name = ""
        self._last: tuple[object, Staging] | None = None

    async def answers(self, requests: Requests) -> AsyncIterator[pb.StepStreamResponse]:
        """The answers to all steps of ``requests``.

        Raises:
            DomainError: the first error of any step.
        """
        while (first := await self._first_message(requests)) is not None:
            step = self._begun(first.header)
            await _fill(Filler(step.staging.buffer), first, requests)
            with _in_header():
                work = partial(stepped, step.session, step.staging, step.options, step.pull)
                result, values = await self._execution.alone(step.session, work)
            for response in self._answer(result, values):
                yield response

    async def _first_message(self, requests: Requests) -> pb.StepStreamRequest | None:
        with self._drain.interruptible():
            message = await anext(requests, None)
        if message is not None and not message.HasField("header"):
            raise DomainError(Reason.STREAM_PROTOCOL, "a step begins with a header", field="header")
        return message

    def _begun(self, header: pb.StepHeader) -> _Step:
        with within("header"):
            self._name = header.name or self._name
            session = self._find(self._name)
            options = sessions.options_from(header.options)
            with within("options.pull"):
                pull = sessions.pull_from(header.options.pull) if header.options.HasField("pull") else None
                check_pull(session, pull)
            return _Step(session, self._staging(session, header), options, pull)

    def _staging(self, session: Session, header: pb.StepHeader) -> Staging:
        # Fresh memory costs more than the copy into it, so equal steps share a buffer.
        key = (session, tuple(header.tensors), header.gradient_dtype)
        if self._last is None or self._last[0] != key:
            dtype = wire_dtype_from(header.gradient_dtype, "gradient_dtype")
            self._last = key, session.stage(key[1] or None, dtype)
        return self._last[1]

    def _answer(self, result: StepResult, values: Values | None) -> Iterator[pb.StepStreamResponse]:
        if values is None:
            yield pb.StepStreamResponse(result=sessions.result_to(result))
            return
        chunks = cut(values.buffer, self._chunk_bytes)
        # A message costs more than a small model's bytes, so the first chunk rides along.
        yield pb.StepStreamResponse(
            result=sessions.result_to(result),
            parameters=sessions.values_header_to(values),
            chunk=next(chunks, None),
        )
        for chunk in chunks:
            yield pb.StepStreamResponse(chunk=chunk)


async def _fill(filler: Filler, first: pb.StepStreamRequest, requests: Requests) -> None:
    """Reads until the gradient is whole."""
    if first.HasField("chunk"):
        filler.add(first.chunk)
    while not filler.whole:
        message = await anext(requests, None)
        if message is None:
            raise filler.truncated()
        if message.HasField("header"):
            raise filler.interrupted()
        filler.add(message.chunk)


@contextlib.contextmanager
def _in_header() -> Iterator[None]:
    """Options stand in the header here; the gradient's bytes do not."""
    try:
        yield
    except DomainError as error:
        if error.field is not None and error.field.startswith("options."):
            error.field = f"header.{error.field}"
        raise
