"""Answers of a stream: results of steps, and values while they are computed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

from optserve_server.rpc.context.meters import Latency
from optserve_server.rpc.streaming.stream_messages import StreamMessages
from optserve_server.state.read_parameters import Reply
from optserve_server.state.step_result import StepResult
from optserve_server.wire.messages.steps import encode_answer


class StepAnswer:
    """The answer to one step, sent in parts while the step computes; its `Progress`.

    Steps that run in a thread report from there, and `StepAnswers` may begin to send before the step
    is done.

    Args:
        reply: the parameters that go with it; None for none.
        on_begun: called on the event loop when the result of a step in a thread is known.

    Attributes:
        is_copied: whether its parameters' buffer is no longer needed.
    """

    def __init__(self, reply: Reply | None, on_begun: Callable[[StepAnswer], None]) -> None:
        self.reply = reply
        self.result: StepResult | None = None
        self.is_copied = reply is None or not reply.staging.byte_count
        self._loop, self._on_begun = asyncio.get_running_loop(), on_begun
        self._reached = 0
        self._news: asyncio.Event | None = None

    def on_result(self, result: StepResult) -> None:
        """The result is known, the parameters follow."""
        self._loop.call_soon_threadsafe(self._set_result, result)

    def on_values(self, byte_count: int) -> None:
        """That many bytes of the parameters are there."""
        self._loop.call_soon_threadsafe(self._set_progress, byte_count)

    def _set_result(self, result: StepResult) -> None:
        self.result = result
        self._on_begun(self)

    def _set_progress(self, byte_count: int) -> None:
        self._reached = byte_count
        if self._news is not None:
            self._news.set()

    def has_bytes(self, byte_count: int) -> bool:
        """Whether that many bytes of the parameters are there."""
        return self._reached >= byte_count

    async def wait_for_bytes(self, byte_count: int) -> None:
        """Returns when that many bytes of the parameters are there."""
        while self._reached < byte_count:
            self._news = asyncio.Event()
            await self._news.wait()


class StepAnswers:
    """The answers of one stream, sent one after the other.

    Args:
        messages: where they go.
        chunk_bytes: how many bytes a chunk holds.

    Attributes:
        sending_task: sends an answer that was begun and that `wait_until_sent` has not waited for.
    """

    def __init__(self, messages: StreamMessages, chunk_bytes: int) -> None:
        self._messages, self._chunk_bytes = messages, chunk_bytes
        self.sending_task: asyncio.Task[None] | None = None
        self._answer: StepAnswer | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()

    @property
    def is_buffer_in_use(self) -> bool:
        """Whether the buffer of an answer is still needed."""
        return self.sending_task is not None and not self.sending_task.done() and not self._is_last_copied()

    def make_answer(self, reply: Reply | None) -> StepAnswer:
        """An answer; that of a step in a thread is sent while the step runs."""
        return StepAnswer(reply, self._start_sending)

    async def wait_until_sent(self) -> None:
        """Waits until every answer that was begun is sent."""
        if self.sending_task is not None:
            await self.sending_task
            self.sending_task = None

    def measure_sending(self, respond: Latency) -> None:
        """Counts how long an answer that is being sent takes from now on."""
        if self.sending_task is not None:
            begun = perf_counter_ns()
            self.sending_task.add_done_callback(lambda _: respond.add_duration(perf_counter_ns() - begun))

    def release_buffer(self) -> None:
        """Lets go of the last answer's buffer."""
        self._answer = None

    def close(self) -> None:
        """Stops sending. The call is over, so a failure to send is not reported."""
        self._closed = True
        if self.sending_task is not None:
            self.sending_task.cancel()
            self.sending_task.add_done_callback(_retrieve_exception)

    def _is_last_copied(self) -> bool:
        return self._answer is not None and self._answer.is_copied

    def _start_sending(self, answer: StepAnswer) -> None:
        if self._closed:  # the client was lost while its step was computed
            return
        self._answer = answer
        self.sending_task = self._loop.create_task(self._send_answer(answer))

    async def _send_answer(self, answer: StepAnswer) -> None:
        """Sends a result and, chunk by chunk as they come, the parameters."""
        assert answer.result is not None
        reply, messages = answer.reply, self._messages
        size = 0 if reply is None else reply.staging.byte_count
        for number, pieces in enumerate(encode_answer(answer.result, reply, self._chunk_bytes), 1):
            stop = min(number * self._chunk_bytes, size)
            if not answer.has_bytes(stop):
                await answer.wait_for_bytes(stop)
            # If the message is copied before anybody else gets a turn, the buffer is free by then.
            answer.is_copied = messages.copies and stop == size
            await messages.write_pieces(pieces)
        answer.is_copied = True


def _retrieve_exception(sending: asyncio.Task[None]) -> None:
    """Takes a task's exception, so that asyncio does not log it as never retrieved."""
    if not sending.cancelled():
        sending.exception()
