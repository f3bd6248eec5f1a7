"""State machine of one worker's steps: what is sent next, and what an answer or an error means.

Nothing here sends, receives or waits, so that clients with threads and with coroutines can be
built on it.
"""

from __future__ import annotations

import hashlib
import random
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from itertools import chain, count
from typing import Any, Generic, NamedTuple, TypeVar

from optserve import errors
from optserve._codec.chunks import CHUNK_BYTES
from optserve._engine.pending_step import SubmittedStep
from optserve._engine.plan import Plan
from optserve._engine.step_result import StepResult
from optserve.errors import Reason
from optserve.v1 import session_service_pb2 as wire

Step = TypeVar("Step", bound=SubmittedStep[Any])


class Verdict(Enum):
    """Consequence of an error that ended a stream."""

    SEND_AGAIN = auto()
    """The waiting steps are sent again at once."""
    RETRY = auto()
    """The waiting steps are sent again after a pause, if there is time."""
    FAILED = auto()
    """The oldest step has failed, and those behind it are abandoned."""


class Membership(NamedTuple):
    """A worker of a session, and its membership if it has one.

    Attributes:
        worker: name of the worker.
        epoch: the epoch of the membership; 0 for none.
        next_sequence: the sequence of its next step.
    """

    worker: str
    epoch: int
    next_sequence: int


class StepProtocol(Generic[Step]):
    """Numbers steps, and stores each until it is answered.

    A number is used up when a step's result is known. A step that was refused gives its number to
    the next one. If the result stays unknown, the number stays as well: the same content sent again
    gets the stored result, and for another one, SEQUENCE_REUSED proves that the lost step was
    applied.

    Args:
        member: the worker, and the membership that its steps are taken in; a random name when None.

    Attributes:
        worker: name of the worker.
        epoch: the epoch of its membership; 0 for none.
        waiting: the steps that are not answered, in order.
        sent: how many of them were sent.
        due: what the server's next messages answer, in order: plans and steps that were sent.
    """

    def __init__(self, member: Membership | None = None) -> None:
        self.waiting: deque[Step] = deque()
        self.due: deque[Plan | Step] = deque()
        self._gradient_ids = count(1)
        self._start_anew(member or Membership(uuid.uuid4().hex, 0, 1))

    def _start_anew(self, member: Membership) -> None:
        self.worker, self.epoch, self._next = member
        self._unknown_sequence = 0
        self._unknown_gradients: dict[bytes, int] = {}
        self._begun: set[int] = set()  # the upload that was begun last
        self.mark_all_unsent()

    def add_step(self, step: Step) -> None:
        """Numbers a step, and puts it behind the others."""
        if not step.plan.options.validate_only:
            step.sequence = self._next
            self._next += 1
            if self._unknown_gradients and step.sequence == self._unknown_sequence:
                # The same gradient again has to have the same id.
                step.gradient_id = self._unknown_gradients.get(_digest_gradients(step), 0)
            if step.plan.region is not None and not step.gradient_id:
                step.gradient_id = next(self._gradient_ids)
        if self.epoch and step.plan.byte_count > CHUNK_BYTES and not step.plan.options.validate_only:
            step.upload_id = random.getrandbits(64)
        self.waiting.append(step)

    @property
    def may_resume(self) -> bool:
        """Whether a plan alone was sent, whose answer may say that the oldest step has arrived in part."""
        return not self.sent and bool(self.due) and self.waiting[0].upload_id in self._begun

    @property
    def must_resend_gradient(self) -> bool:
        """Whether the next step has to send its gradient, as the one did whose result is unknown."""
        return self._next == self._unknown_sequence and not self._unknown_gradients

    def mark_all_unsent(self) -> None:
        """Forgets what was sent: the next stream begins with the oldest waiting step."""
        self.due.clear()
        self._plan: Plan | None = None
        self.sent = 0

    def begin_stream(self) -> bytes:
        """Returns the message that begins a stream."""
        return self._announce_plan(self.waiting[0].plan)

    def take_unsent(self) -> tuple[Iterable[Sequence[Any]], bool]:
        """Takes the next of the waiting steps that are still to be sent; it is due from now on.

        Returns:
            Its messages, each in pieces, and whether all before it is answered.
        """
        sent = self.sent
        step = self.waiting[sent]
        messages = step.messages()
        if step.plan is not self._plan:
            messages = chain([(self._announce_plan(step.plan),)], messages)
        self.due.append(step)
        if step.upload_id:
            self._begun = {step.upload_id}
        self.sent = sent + 1
        return messages, not sent

    def accept_plan(self, message: wire.StepPlanned) -> None:
        """Accepts the answer to the plan that is due."""
        plan = self.due.popleft()
        assert isinstance(plan, Plan)
        plan.accept_plan_response(message)
        if self.waiting and self.waiting[0].upload_id:
            is_known = message.upload_id == self.waiting[0].upload_id
            self.waiting[0].resume_from = message.received_bytes if is_known else 0

    def accept_result(self, result: StepResult) -> None:
        """Accepts the result of the oldest step."""
        self.due.popleft()
        self.sent -= 1
        step = self.waiting.popleft()
        if step.sequence == self._unknown_sequence:
            self._clear_unknown_outcome()
        step.resolve(result)

    def accept_error(self, error: errors.OptserveError) -> Verdict:
        """Returns what follows from the error that ended the stream; no answer is due any more."""
        self.mark_all_unsent()
        if not self.waiting:
            return Verdict.RETRY
        oldest = self.waiting[0]
        if error.reason is Reason.SEQUENCE_REUSED and oldest.sequence == self._unknown_sequence:
            self._clear_unknown_outcome()  # the step whose result stayed unknown was applied
            self._assign_sequence_numbers(oldest.sequence + 1)
            return Verdict.SEND_AGAIN
        if isinstance(error, errors.Unavailable | errors.Cancelled) or error.retry_after is not None:
            return Verdict.RETRY
        self.fail_waiting_steps(error)
        return Verdict.FAILED

    def fail_waiting_steps(self, error: errors.OptserveError) -> None:
        """Fails the oldest step; the server applied none of those behind it."""
        oldest = self.waiting.popleft()
        if oldest.sequence:
            self._next = oldest.sequence
            if error.applied is None:
                self._record_unknown_outcome(oldest)
        if error.reason is Reason.SEQUENCE_GAP and error.metadata.get("expected", "").isdigit():
            self._next = int(error.metadata["expected"])  # the server recovered without the last steps
        oldest.resolve(error)
        while self.waiting:
            abandoned = errors.Abandoned("an earlier step of the stream failed", applied=False)
            abandoned.__cause__ = error
            self.waiting.popleft().resolve(abandoned)

    def withdraw_step(self, step: Step) -> None:
        """Takes back the last step, whose caller waits no more; its number goes to the next one."""
        self.mark_all_unsent()
        self.waiting.remove(step)
        if step.sequence:
            self._record_unknown_outcome(step)
            self._next = step.sequence

    def after_fork(self) -> None:
        """Becomes another worker; the waiting steps are the parent's."""
        while self.waiting:
            step = self.waiting.popleft()
            step.resolve(errors.Cancelled("the step belongs to the process that forked this one"))
        self._start_anew(Membership(uuid.uuid4().hex, 0, 1))

    def _announce_plan(self, plan: Plan) -> bytes:
        self._plan = plan
        self.due.append(plan)
        return plan.encode(self.worker, self.epoch)

    def _assign_sequence_numbers(self, first: int) -> None:
        for sequence, step in enumerate(self.waiting, first):
            step.sequence = sequence
        self._next = first + len(self.waiting)

    def _record_unknown_outcome(self, step: Step) -> None:
        if step.sequence != self._unknown_sequence:
            self._clear_unknown_outcome()
            self._unknown_sequence = step.sequence
        if step.gradient_id:
            self._unknown_gradients[_digest_gradients(step)] = step.gradient_id

    def _clear_unknown_outcome(self) -> None:
        self._unknown_sequence = 0
        self._unknown_gradients = {}


def _digest_gradients(step: SubmittedStep[Any]) -> bytes:
    """Returns a digest of the step's whole gradients."""
    digest = hashlib.blake2b(digest_size=16)
    region = step.plan.region
    arrays = step.gradients[0] if region is None else [region.gradients[n] for n in step.plan.tensors[0]]
    for array in arrays:
        digest.update(array.reshape(-1).view("u1").data)
    return digest.digest()
