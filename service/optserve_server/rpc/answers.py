"""What a stream sends back: each step's result, and values while they are computed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from optserve._codec.framing import ChunkView
from optserve_server.rpc.messages import Messages
from optserve_server.sessions.reading import Point, Reply
from optserve_server.sessions.result import StepResult
from optserve_server.sessions.staging import Staging
from optserve_server.wire.step_answers import RESPONSES, Heads


class Answer:
    """The answer to one step, as far as it is known: what `Session` calls its progress.

    Small steps tell of it on the event loop. Others do from a thread, and `write` may begin to
    send before the step is done.

    Args:
        reply: the values that go with it; None for none.
        loop: of the thread that sends, where the step runs in another one; else None.
        started: is called on the loop when the result is known.

    Attributes:
        copied: whether its values' buffer is no longer needed.
    """

    def __init__(self, reply: Reply | None, loop: asyncio.AbstractEventLoop | None, started: Any) -> None:
        self.reply = reply
        self.result: StepResult | None = None
        self.copied = reply is None or not reply.staging.byte_count
        self._loop, self._started = loop, started
        self._reached = 0
        self._news = asyncio.Event()

    def begun(self, result: StepResult) -> None:
        """The result is known, the values follow."""
        if self._loop is None:
            self.result = result
        else:
            self._loop.call_soon_threadsafe(self._begin, result)

    def reached(self, byte_count: int) -> None:
        """That many bytes of the values are there."""
        if self._loop is None:
            self._advance(byte_count)
        else:
            self._loop.call_soon_threadsafe(self._advance, byte_count)

    def _begin(self, result: StepResult) -> None:
        self.result = result
        self._started(self)

    def _advance(self, byte_count: int) -> None:
        self._reached = byte_count
        self._news.set()

    async def chunks(self, chunk_bytes: int, *, copied: bool) -> AsyncIterator[ChunkView]:
        """The values, as they come.

        Args:
            chunk_bytes: how many at most at a time.
            copied: whether whoever sends a chunk copies it, before anybody else gets a turn.
        """
        if self.reply is None:
            return
        buffer, start = self.reply.staging.buffer, 0
        while start < buffer.size:
            stop = min(start + chunk_bytes, buffer.size)
            while self._reached < stop:
                self._news.clear()
                await self._news.wait()
            self.copied = copied and stop == buffer.size
            yield ChunkView(start, buffer[start:stop].data)
            self.copied = stop == buffer.size
            start = stop


class Answers:
    """The answers of one stream, sent one after the other.

    Args:
        messages: where they go.
        chunk_bytes: how many bytes a chunk holds.
    """

    def __init__(self, messages: Messages, chunk_bytes: int) -> None:
        self._messages, self._chunk_bytes = messages, chunk_bytes
        self._sending: asyncio.Task[None] | None = None
        self._answer: Answer | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._headed: tuple[Staging, Point] | None = None
        self._heads = Heads(None)

    @property
    def busy(self) -> bool:
        """Whether the buffer of an answer is still needed."""
        return self._sending is not None and not self._sending.done() and not self._last_copied()

    def begin(self, reply: Reply | None, *, inline: bool) -> Answer:
        """An answer; where the step is not computed inline, it is sent as it comes."""
        return Answer(reply, None if inline else self._loop, self._start)

    async def finish(self, answer: Answer) -> None:
        """Sends an answer that is known in whole and was not begun to be sent."""
        if self._sending is None:
            await self._write(answer)

    async def sent(self) -> None:
        """Waits until every answer that was begun is sent."""
        if self._sending is not None:
            await self._sending
            self._sending = None

    def forget(self) -> None:
        """Lets go of the last answer's buffer."""
        self._answer = self._headed = None
        self._heads = Heads(None)

    def close(self) -> None:
        """Stops sending. The call is over, so a failure to send has nobody to be told to."""
        self._closed = True
        if self._sending is not None:
            self._sending.cancel()
            self._sending.add_done_callback(_forget)

    def _last_copied(self) -> bool:
        return self._answer is not None and self._answer.copied

    def _start(self, answer: Answer) -> None:
        if self._closed:  # the client was lost while its step was computed
            return
        self._answer = answer
        self._sending = self._loop.create_task(self._write(answer))

    async def _write(self, answer: Answer) -> None:
        assert answer.result is not None
        head = self._head(answer.result, answer.reply)
        # A message costs more than a small model's bytes, so the first chunk rides along.
        async for chunk in answer.chunks(self._chunk_bytes, copied=self._messages.copies):
            await self._messages.write_pieces(RESPONSES.pieces(head, chunk))
            head = b""
        if head:
            await self._messages.write(head)

    def _head(self, result: StepResult, reply: Reply | None) -> bytes:
        headed = None if reply is None else (reply.staging, reply.point)
        if self._headed != headed:
            self._headed, self._heads = headed, Heads.of(reply)
        return self._heads.encode(result, 0 if reply is None else reply.step)


def _forget(sending: asyncio.Task[None]) -> None:
    """Takes a task's exception, which would be logged as one that nobody took."""
    if not sending.cancelled():
        sending.exception()
