"""Many steps on one open stream, some of them under way at once."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Self

import grpc
import numpy as np
from numpy.typing import DTypeLike

from optserve import coercion, dtypes, errors
from optserve.answers import Answers
from optserve.connection import Connection
from optserve.contents import Contents
from optserve.data_call import DataCall, NoDataConnection
from optserve.data_connection import Message
from optserve.direct_call import DirectCall
from optserve.dtypes import Array
from optserve.into import check, same
from optserve.layout import Layout
from optserve.line import Line
from optserve.lone_step import LoneCall, LoneStep
from optserve.outline import Asked, Outline
from optserve.outlines import Outlines
from optserve.parameters import Parameters, Pulling, as_pull
from optserve.pending import Attempt, PendingStep
from optserve.retry import Deadline, allowance
from optserve.shared_steps import SharedMessages, SharedOutline
from optserve.sharing import Sharing
from optserve.sparse import AnyGradients
from optserve.steps import StepMessages, StepResult
from optserve.worker import REFUSALS

MAX_WINDOW = 64
"""A server keeps this many results of each worker, and so answers as many steps sent again."""
SHARED_BYTES = 1 << 16
"""Steps of smaller sessions that are not waited for are sent: in memory there is one at a time."""


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
        sharing: memory that steps may lie in.
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
        sharing: Sharing,
    ) -> None:
        if not 1 <= window <= MAX_WINDOW:
            raise ValueError(f"window is {window}, but must be from 1 to {MAX_WINDOW}")
        self._connection, self._name, self._layout = connection, name, layout
        self._pull = as_pull(pull, wire_dtype)
        self._wire_dtype, self._window, self._timeout = wire_dtype, window, timeout
        self._worker, self._sequence = uuid.uuid4().hex, 1
        self._waiting: deque[PendingStep] = deque()
        self._unseen: errors.OptserveError | None = None
        self._line = Line(connection)
        self._watchdog = self._line.watchdog
        self._closed = False
        self._sharing = sharing
        self._outlines = Outlines(name, layout, self._pull, wire_dtype, sharing)
        self._gradients: Mapping[str, Array] | None = None
        self._answers = Answers()
        self._lone: LoneStep | None = None
        self._filled: Mapping[str, Array] | None = None  # the arrays of `into` that were checked last
        self._returned = self._pull.byte_count(layout) if self._pull else 0

    @property
    def gradients(self) -> Mapping[str, Array]:
        """Arrays to compute gradients into, by tensor name; `step` takes them, or any others.

        They lie in memory shared with the server where there is such, so that a step on them
        copies nothing. From when a step is handed over until it is answered they must stay as
        they are; they keep their values. Take the property anew for each step: the arrays
        change when the server is another one.
        """
        if self._gradients is None:
            self._lone = None
            dtype = self._wire_dtype
            kind = None if dtype is None else dtypes.checked(dtype, dtypes.WIRE_DTYPES, "wire_dtype")
            zeros = {t.name: np.zeros(t.shape, kind or t.dtype) for t in self._layout.values()}
            self._make_room(alone=True)
            outline, _ = self._outlines.of(zeros, copy=False, shared=self._sharing.on)
            self._gradients = outline.memory.gradients if isinstance(outline, SharedOutline) else zeros
        return self._gradients

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
        gradients = coercion.named(gradients, "gradients")
        timeout = coercion.optional(coercion.seconds, timeout, "timeout")
        if into is not None and (self._filled is None or not same(into, self._filled)):
            self._filled = check(into, self._layout, self._pull)
        lone = self._lone
        if lone is not None and lone.asks(expected_step, loss_scale, per_tensor_norms):
            message = lone.message(gradients, self._sequence)
            if message is not None:
                return self._exchange(lone, message, into, lone.seconds if timeout is None else timeout)
        pending = self._submit(gradients, Asked(expected_step, loss_scale, per_tensor_norms), copy=False)
        return self._awaited(pending, into, timeout)

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
        self._sharing.close()
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
        attempt, count = oldest.begun or Attempt(Deadline(timeout)), 0
        deadline, oldest.begun = attempt.deadline, None
        while True:
            count += 1
            try:
                outcome = self._attempt(attempt)
            except BaseException:
                self._drop(cancel=True)  # an answer may have been read in part
                raise
            if isinstance(outcome, StepResult):
                self._waiting.popleft().settle(outcome)
                if not deadline.remaining():
                    self._drop(cancel=True)  # the watchdog may have cancelled it just after the answer
                return
            self._drop(cancel=True)
            attempt = Attempt(deadline)
            if isinstance(outcome, NoDataConnection):
                self._connection.no_data(outcome)
                continue
            if outcome.reason is errors.Reason.REGION_NOT_FOUND and self._sent_instead(oldest):
                continue
            if isinstance(outcome, errors.Cancelled) and not deadline.remaining():
                raise errors.DeadlineExceeded(f"no answer came in {deadline.seconds:g} s") from outcome
            if not isinstance(outcome, errors.Unavailable | errors.Cancelled) and outcome.retry_after is None:
                self._fail(outcome)
                return
            if not self._connection.retry.worth(count, outcome, deadline):
                raise outcome

    def seen(self, error: errors.OptserveError) -> None:
        """Notes that somebody was told of a failure."""
        if self._unseen in (error, error.__cause__):
            self._unseen = None

    def _exchange(
        self, lone: LoneStep, message: bytes, into: Mapping[str, Array] | None, seconds: float
    ) -> StepResult:
        """Takes a step like the one before it, with nothing else under way.

        All that is seldom is done in `_carry_on`: a step costs the more code the colder it is.
        """
        began, answer, failure, result = time.monotonic(), None, None, None
        try:
            self._watchdog.watch_until(began + seconds, lone.cancel)
            answer = lone.call.ask(message)
            self._watchdog.rest()
            if answer is None:
                raise errors.Unavailable("the stream ended before its answer")
            result = self._answers.again(answer, into, lone.lookup)
            if result is not None:
                self._sequence += 1
        except BaseException as error:
            failure = error
        if result is None:
            return self._carry_on(lone, message, into, Attempt(Deadline(seconds, began), answer, failure))
        if time.monotonic() >= began + seconds:
            self._drop(cancel=True)  # the watchdog may have cancelled it just after the answer
        return result

    def _carry_on(
        self, lone: LoneStep, message: bytes, into: Mapping[str, Array] | None, begun: Attempt
    ) -> StepResult:
        """Treats a step of `_exchange` like any other from here on."""
        pending = PendingStep(self, lone.outline.messages(message), lone.byte_count)
        pending.begun = begun
        self._waiting.append(pending)
        self._sequence += 1
        return self._awaited(pending, into, None)

    def _awaited(
        self, pending: PendingStep, into: Mapping[str, Array] | None, timeout: float | None
    ) -> StepResult:
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

    def _submit(self, gradients: AnyGradients, asked: Asked, copy: bool) -> PendingStep:
        """Hands over a step; without a copy, the arrays must stay as they are until it is answered."""
        if self._closed:
            raise RuntimeError("the stream is closed")
        gradients, asked = coercion.named(gradients, "gradients"), asked.checked()
        self._lone = None
        shared = self._sharing.on and (not copy or self._layout.byte_count >= SHARED_BYTES)
        self._make_room(alone=shared)
        outline, payload = self._outlines.of(gradients, copy, shared)
        self._raise_unseen()
        head = outline.head(self._worker, self._sequence, asked)
        messages = StepMessages(head, payload)
        if isinstance(outline, SharedOutline):
            messages = SharedMessages(head, payload, outline.memory)
        pending = PendingStep(self, messages, payload.byte_count + self._returned)
        call = self._line.ready(False, self._waiting) if self._waiting else self._line.suited(not copy)
        call.put(messages)
        self._waiting.append(pending)
        self._sequence += 1
        if isinstance(call, DataCall | DirectCall) and outline.is_small and self._outlines.holds(outline):
            self._lone = self._following(call, outline, asked, pending.byte_count)
        return pending

    def _following(self, call: LoneCall, outline: Outline, asked: Asked, byte_count: int) -> LoneStep:
        """What serves the steps after this one, until it is dropped."""
        lookup = None
        if isinstance(outline, SharedOutline) and self._pull is not None:
            lookup = partial(self._sharing.read, outline.memory, self._pull)
        seconds = allowance(self._timeout, byte_count)
        return LoneStep(call, outline, self._worker, asked, byte_count, seconds, lookup)

    def _make_room(self, alone: bool) -> None:
        """Waits until one more step may be under way; one in shared memory has none beside it."""
        alone = alone or any(isinstance(step.messages, SharedMessages) for step in self._waiting)
        while len(self._waiting) >= (1 if alone else self._window):
            self.advance()

    def _sent_instead(self, pending: PendingStep) -> bool:
        """Sends a step's gradient whose memory the server does not know, or no more."""
        messages = pending.messages
        if not isinstance(messages, SharedMessages):
            return False
        self._sharing.forget(messages.memory)
        self._outlines.forget_shared()
        self._gradients = None
        pending.messages = messages.in_chunks()
        return True

    def _lookup(
        self, contents: Contents, step: int, change: int, into: Mapping[str, Array] | None
    ) -> Parameters:
        """Parameters in the memory of the oldest step."""
        oldest = self._waiting[0]
        if not isinstance(oldest.messages, SharedMessages) or self._pull is None:
            raise errors.Internal("the answer speaks of memory that the step did not name")
        return self._sharing.read(oldest.messages.memory, self._pull, contents, step, change, into)

    def _attempt(self, attempt: Attempt) -> StepResult | errors.OptserveError:
        call = self._line.ready(len(self._waiting) == 1, self._waiting)
        self._watchdog.watch(attempt.deadline, call.cancel)
        try:
            if attempt.failure is not None:
                raise attempt.failure
            answers: Iterator[Message] = iter(call.receive, None)
            if attempt.answer is not None:
                answers = chain((attempt.answer,), answers)
            return self._answers.read(answers, self._waiting[0].into, lookup=self._lookup)
        except grpc.RpcError as failure:
            return errors.from_call(failure)
        except (errors.Unavailable, errors.Internal) as error:
            return error
        finally:
            self._watchdog.rest()

    def _drop(self, cancel: bool) -> None:
        self._lone = None
        self._line.drop(cancel)

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
