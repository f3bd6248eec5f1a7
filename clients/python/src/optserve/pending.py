"""A step of a stream that may not be answered yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from optserve import coercion, errors
from optserve.data_connection import Message
from optserve.dtypes import Array
from optserve.retry import Deadline
from optserve.steps import StepMessages, StepResult

if TYPE_CHECKING:
    from optserve.stream import StepStream


class Attempt(NamedTuple):
    """An attempt to take a step, which may have come some way already.

    Attributes:
        deadline: of this attempt and those that follow.
        answer: the first message of the answer, where it is there.
        failure: why there is none, where that is known.
    """

    deadline: Deadline
    answer: Message | None = None
    failure: BaseException | None = None


class PendingStep:
    """A step that was handed to a stream, like a future.

    Args:
        stream: the stream.
        messages: its messages, kept until it is answered so that they can be gone through again.
        byte_count: bytes that go and come with it.
    """

    def __init__(self, stream: StepStream, messages: StepMessages, byte_count: int) -> None:
        self._stream = stream
        self.messages: StepMessages | None = messages
        self.byte_count = byte_count
        self.into: Mapping[str, Array] | None = None
        self.begun: Attempt | None = None
        self._result: StepResult | None = None
        self._error: errors.OptserveError | None = None

    def done(self) -> bool:
        """Whether the answer was read, or the step failed."""
        return self._result is not None or self._error is not None

    def result(self, timeout: float | None = None) -> StepResult:
        """Waits for the answer; asking again gives the same.

        Args:
            timeout: seconds to wait; the stream's own when None.

        Raises:
            Unavailable: the server could not be reached again. The step stays pending: asking
                again connects again, and it is applied once.
            DeadlineExceeded: no answer came in time; the step stays pending likewise.
            Abandoned: an earlier step failed, and this one was not applied.
            OptserveError: the step was refused.
        """
        timeout = coercion.optional(coercion.seconds, timeout, "timeout")
        while self._result is None and self._error is None:
            self._stream.advance(timeout)
        if self._error is not None:
            self._stream.seen(self._error)
            raise self._error
        assert self._result is not None
        return self._result

    def settle(self, outcome: StepResult | errors.OptserveError) -> None:
        """Takes the answer, or the failure; called by the stream."""
        self.messages = None
        if isinstance(outcome, StepResult):
            self._result = outcome
        else:
            self._error = outcome
