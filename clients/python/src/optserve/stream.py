"""Many steps on one open stream, some of them under way at once."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

import grpc
from numpy.typing import DTypeLike

from optserve import direct_call, errors
from optserve.answers import Answers
from optserve.connection import Connection
from optserve.direct_call import DirectCall
from optserve.dtypes import Array
from optserve.into import check
from optserve.layout import Layout
from optserve.outline import Asked, Outline
from optserve.parameters import Pulling, as_pull
from optserve.payload import Payload
from optserve.queued_call import QueuedCall
from optserve.retry import Deadline, allowance
from optserve.sparse import AnyGradients
from optserve.steps import StepMessages, StepResult, Wishes, request
from optserve.watchdog import Watchdog
from optserve.worker import REFUSALS

MAX_WINDOW = 64
"""A server keeps this many results of each worker, and so answers as many steps sent again."""
FAREWELL = 0.5
"""Seconds for a server to end a call that has nothing more to send."""


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


class StepStream:
    """A pipelined stream of steps; made by `SessionHandle.stream`, used by one thread at a time.

    A stream is a worker of its own: the server applies its steps in the order in which they were
    submitted, each once. When the connection is lost, the stream connects again and sends again
    what was not answered. After a refused step the ones submitted behind it are abandoned, and
    the stream can go on.

    Args:
        connection: to the server.
        name: of the session.
        layout: of the session.
        pull: what to send back with each answer.
        wire_dtype: element type of gradients, and of parameters where ``pull`` names none;
            None for what is given and the parameters' own.
        window: how many steps may be under way at once, up to 64.
        timeout: seconds to wait for an answer.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        layout: Layout,
        pull: Pulling,
        wire_dtype: DTypeLike | None,
        window: int,
        timeout: float,
    ) -> None:
        if not 1 <= window <= MAX_WINDOW:
            raise ValueError(f"window is {window}, but must be from 1 to {MAX_WINDOW}")
        self._connection, self._name, self._layout = connection, name, layout
        self._pull = as_pull(pull, wire_dtype)
        self._wire_dtype, self._window, self._timeout = wire_dtype, window, timeout
        self._worker, self._sequence = uuid.uuid4().hex, 1
        self._waiting: deque[PendingStep] = deque()
        self._call: DirectCall | QueuedCall | None = None
        self._unseen: errors.OptserveError | None = None
        self._watchdog = Watchdog()
        self._closed = False
        self._outline: Outline | None = None
        self._answers = Answers()
        self._returned = self._pull.byte_count(layout) if self._pull else 0

    def submit(
        self,
        gradients: AnyGradients,
        *,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        per_tensor_norms: bool = False,
    ) -> PendingStep:
        """Hands over a step without waiting for its answer.

        Waits only while the window is full. The gradients are copied and may be changed at once.

        Raises:
            InvalidArgument: a name or a shape is wrong; nothing was handed over.
            TypeError: an element type is.
            OptserveError: an earlier step failed, and nobody has asked for its result.
        """
        return self._submit(gradients, Asked(expected_step, loss_scale, per_tensor_norms), copy=True)

    def step(
        self,
        gradients: AnyGradients,
        *,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        per_tensor_norms: bool = False,
        into: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> StepResult:
        """Takes a step and waits for its answer.

        Args:
            gradients: as for `SessionHandle.step`.
            expected_step: the step that the session must be at.
            loss_scale: what the loss was multiplied by, to be divided out.
            per_tensor_norms: asks for the norm of each tensor's gradient.
            into: arrays by tensor name that are filled with the parameters, such as the model's own;
                new ones when None. They may share no memory with the gradients. After an error
                they may hold a part of the new values.
            timeout: seconds to wait for the answer; the stream's own when None.

        Raises:
            OptserveError: as for `submit` and `PendingStep.result`.
            ValueError: ``into`` does not fit what the stream pulls; nothing was sent.
        """
        if into is not None and not self._answers.fills(into):
            check(into, self._layout, self._pull)
        pending = self._submit(gradients, Asked(expected_step, loss_scale, per_tensor_norms), copy=False)
        pending.into = into
        try:
            return pending.result(timeout)
        except BaseException:
            # The arrays are the caller's again, but the step may have to be sent once more.
            self._drop(cancel=True)
            pending.into = None
            if pending.messages is not None:
                pending.messages.keep()
            raise

    def steps(self, gradients: Iterable[AnyGradients]) -> Iterator[StepResult]:
        """Takes a step on each of the gradients, up to a window of them under way; results in order."""
        pending: deque[PendingStep] = deque()
        for gradient in gradients:
            pending.append(self.submit(gradient))
            if len(pending) >= self._window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def flush(self) -> None:
        """Waits until every step is answered.

        Raises:
            OptserveError: a step failed, and nobody has asked for its result.
        """
        while self._waiting:
            self.advance()
        self._raise_unseen()

    def close(self) -> None:
        """Ends the stream without waiting; whether unanswered steps are applied is left open."""
        self._closed = True
        self._drop(cancel=bool(self._waiting))
        self._watchdog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def advance(self, timeout: float | None = None) -> None:
        """Reads the answer to the oldest unanswered step, connecting again where that helps.

        Raises:
            Unavailable: that did not help; the step stays unanswered.
            DeadlineExceeded: no answer came in time; likewise.
        """
        oldest = self._waiting[0]
        if timeout is None:
            timeout = allowance(self._timeout, oldest.byte_count)
        deadline, attempt = Deadline(timeout), 0
        while True:
            attempt += 1
            try:
                outcome = self._attempt(deadline)
            except BaseException:
                self._drop(cancel=True)  # an answer may have been read in part
                raise
            if isinstance(outcome, StepResult):
                self._waiting.popleft().settle(outcome)
                return
            self._drop(cancel=True)
            if isinstance(outcome, errors.Cancelled) and not deadline.remaining():
                raise errors.DeadlineExceeded(f"no answer came in {timeout:g} s") from outcome
            if not isinstance(outcome, errors.Unavailable | errors.Cancelled) and outcome.retry_after is None:
                self._fail(outcome)
                return
            if not self._connection.retry.worth(attempt, outcome, deadline):
                raise outcome

    def seen(self, error: errors.OptserveError) -> None:
        """Notes that somebody was told of a failure."""
        if self._unseen in (error, error.__cause__):
            self._unseen = None

    def _submit(self, gradients: AnyGradients, asked: Asked, copy: bool) -> PendingStep:
        """Hands over a step; without a copy, the arrays must stay as they are until it is answered."""
        if self._closed:
            raise RuntimeError("the stream is closed")
        outline, payload = self._outlined(gradients, copy)
        while len(self._waiting) >= self._window:
            self.advance()
        self._raise_unseen()
        messages = StepMessages(outline.head(self._worker, self._sequence, asked), payload)
        pending = PendingStep(self, messages, payload.byte_count + self._returned)
        self._ready(alone=not copy and not self._waiting).put(messages)
        self._waiting.append(pending)
        self._sequence += 1
        return pending

    def _outlined(self, gradients: AnyGradients, copy: bool) -> tuple[Outline, Payload]:
        """The gradients ready to be sent, by the outline of the step before where they are alike."""
        outline = self._outline
        payload = outline.payload(gradients, copy) if outline is not None else None
        if outline is None or payload is None:
            payload = Payload.of_gradients(self._layout, gradients, self._wire_dtype).uniform()
            if payload.is_empty:
                raise ValueError("no gradient is given")
            options = Wishes(pull=self._pull).message(self._layout)
            outline = Outline(request(self._name, options, payload), gradients, payload)
            self._outline = None if payload.rows else outline
            payload = payload.copied() if copy else payload
        return outline, payload

    def _ready(self, alone: bool) -> DirectCall | QueuedCall:
        """The call for one more step, which is waited for at once where it goes alone.

        Calls change only while nothing is under way.
        """
        kind = DirectCall if alone and direct_call.available() else QueuedCall
        if not self._waiting and not isinstance(self._call, kind):
            self._drop(cancel=False)
        return self._call or self._open(kind)

    def _open(self, kind: type[DirectCall | QueuedCall]) -> DirectCall | QueuedCall:
        """Opens a call, and sends again what was not answered."""
        made = self._connection.direct_steps() if kind is DirectCall else self._connection.queued_steps()
        for pending in self._waiting:
            if pending.messages is not None:
                made.put(pending.messages)
        self._call = made
        return made

    def _attempt(self, deadline: Deadline) -> StepResult | errors.OptserveError:
        alone = len(self._waiting) == 1 and direct_call.available()
        call = self._call or self._open(DirectCall if alone else QueuedCall)
        self._watchdog.watch(deadline, call.cancel)
        try:
            return self._answers.read(iter(call.receive, None), self._waiting[0].into)
        except grpc.RpcError as failure:
            return errors.from_call(failure)
        except (errors.Unavailable, errors.Internal) as error:
            return error
        finally:
            self._watchdog.rest()

    def _drop(self, cancel: bool) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        if cancel:
            call.close()
        else:
            self._watchdog.watch(Deadline(FAREWELL), call.cancel)
            call.finish()
            self._watchdog.rest()

    def _fail(self, error: errors.OptserveError) -> None:
        """Gives the oldest step its failure; the server applied none of those behind it."""
        if isinstance(error, REFUSALS):
            self._sequence -= len(self._waiting)
        else:
            self._worker, self._sequence = uuid.uuid4().hex, 1
        self._unseen = error
        self._waiting.popleft().settle(error)
        while self._waiting:
            abandoned = errors.Abandoned("an earlier step of the stream failed")
            abandoned.__cause__ = error
            self._waiting.popleft().settle(abandoned)

    def _raise_unseen(self) -> None:
        error, self._unseen = self._unseen, None
        if error is not None:
            raise error
