"""StepStream: many steps over one stream, answered in order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from optserve.framing import Framed
from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import DomainError, Reason, within
from optserve_server.rpc.drain import Drain
from optserve_server.rpc.execution import Execution
from optserve_server.rpc.sharing import Sharing, stepped_in
from optserve_server.rpc.stepping import stepped
from optserve_server.sessions.arriving import Arriving
from optserve_server.sessions.reading import Values
from optserve_server.sessions.regions import Region
from optserve_server.sessions.result import StepOptions, StepResult
from optserve_server.sessions.session import Session
from optserve_server.sessions.staging import Staging
from optserve_server.wire import sessions
from optserve_server.wire.chunks import Filler, cut
from optserve_server.wire.sessions import Pull
from optserve_server.wire.tensors import wire_dtype_from

Request = Framed[pb.StepStreamRequest]
Response = Framed[pb.StepStreamResponse]
Requests = AsyncIterator[Request]


@dataclass(frozen=True)
class _Step:
    session: Session
    staging: Staging | Arriving
    options: StepOptions
    pull: Pull | None
    into: Staging | None
    region: Region | None = None


class _Buffer:
    """A staging that equal steps share: fresh memory costs more than the copy into it."""

    def __init__(self) -> None:
        self._key: object = None
        self._staging: Staging | None = None

    def of(self, session: Session, tensors: tuple[str, ...] | None, dtype: np.dtype[Any] | None) -> Staging:
        """What `Session.stage` gives; the last one again where nothing differs."""
        key = (session, tensors, dtype)
        if self._staging is None or self._key != key:
            self._staging = session.stage(tensors, dtype)
            self._key = key
        return self._staging


class StepStream:
    """One stream of steps.

    Args:
        find: gives the session of a resource name.
        execution: where steps are computed.
        drain: ends the stream between two steps when the server shuts down.
        chunk_bytes: how many bytes an answer's chunks hold.
        sharing: memory that steps may lie in.
    """

    def __init__(
        self,
        find: Callable[[str], Session],
        execution: Execution,
        drain: Drain,
        chunk_bytes: int,
        sharing: Sharing,
    ) -> None:
        self._sharing = sharing
        self._find = find
        self._execution = execution
        self._drain = drain
        self._chunk_bytes = chunk_bytes
        self._name = ""
        self._gradients, self._values = _Buffer(), _Buffer()

    async def answers(self, requests: Requests) -> AsyncIterator[Response]:
        """The answers to all steps of ``requests``.

        Raises:
            DomainError: the first error of any step.
        """
        while (first := await self._first_message(requests)) is not None:
            step = self._begun(first.message.header)
            if step.region is not None and step.into is None:
                with _in_header():
                    shared = partial(stepped_in, step.region, step.options, wanted=step.pull is not None)
                    yield Framed(await self._execution.alone(step.session, shared))
                continue
            if step.region is None:
                await _fill(Filler(step.staging.buffer), first, requests)
            with _in_header():
                staging = await self._staged(step)
                work = partial(stepped, step.session, staging, step.options, step.pull, step.into)
                result, values = await self._execution.alone(step.session, work)
            for response in self._answer(result, values):
                yield response

    async def _first_message(self, requests: Requests) -> Request | None:
        with self._drain.interruptible():
            message = await anext(requests, None)
        if message is not None and not message.message.HasField("header"):
            raise DomainError(Reason.STREAM_PROTOCOL, "a step begins with a header", field="header")
        return message

    def _begun(self, header: pb.StepHeader) -> _Step:
        with within("header"):
            self._name = header.name or self._name
            session = self._find(self._name)
            options = replace(sessions.options_from(header.options), gradient_id=header.gradient_id)
            region = self._sharing.region_of(session, header)
            pull, into = self._pull(session, header.options, region)
            if region is not None:
                return _Step(session, region.staging, options, pull, into, region)
            dtype = wire_dtype_from(header.gradient_dtype, "gradient_dtype")
            staging = self._staging(session, header, dtype)
            return _Step(session, staging, options, pull, into)

    def _staging(
        self, session: Session, header: pb.StepHeader, dtype: np.dtype[Any] | None
    ) -> Staging | Arriving:
        if not header.sparse_gradients:
            return self._gradients.of(session, tuple(header.tensors) or None, dtype)
        rows = sessions.row_indices_from(header.sparse_gradients)
        return session.stage_rows(header.tensors, rows, dtype)

    async def _staged(self, step: _Step) -> Staging:
        """The gradient as steps take it; to put rows into their places may take a while."""
        if isinstance(step.staging, Staging) or step.session.is_small:
            return step.session.staged(step.staging)
        return await self._execution.in_thread(partial(step.session.staged, step.staging))

    def _pull(
        self, session: Session, options: pb.StepOptions, region: Region | None
    ) -> tuple[Pull | None, Staging | None]:
        if not options.HasField("pull"):
            return None, None
        with within("options.pull"):
            pull = sessions.pull_from(options.pull)
            if region is not None and region.key == (pull.tensors, pull.dtype, pull.point):
                return pull, None
            session.values([], None, pull.point)
            return pull, self._values.of(session, pull.tensors, pull.dtype)

    def _answer(self, result: StepResult, values: Values | None) -> Iterator[Response]:
        message = pb.StepStreamResponse(result=sessions.result_to(result))
        if values is None:
            yield Framed(message)
            return
        message.parameters.CopyFrom(sessions.values_header_to(values))
        chunks = cut(values.buffer, self._chunk_bytes)
        # A message costs more than a small model's bytes, so the first chunk rides along.
        yield Framed(message, next(chunks, None))
        for chunk in chunks:
            yield Framed(pb.StepStreamResponse(), chunk)


async def _fill(filler: Filler, first: Request, requests: Requests) -> None:
    """Reads until the gradient is whole."""
    filler.add(first.chunk)
    while not filler.whole:
        framed = await anext(requests, None)
        if framed is None:
            raise filler.truncated()
        if framed.message.HasField("header"):
            raise filler.interrupted()
        filler.add(framed.chunk)


@contextlib.contextmanager
def _in_header() -> Iterator[None]:
    """Options and names of rows stand in the header here; the gradient's bytes do not."""
    try:
        yield
    except DomainError as error:
        if error.field is not None and error.field.startswith(("options.", "sparse_gradients")):
            error.field = f"header.{error.field}"
        raise
