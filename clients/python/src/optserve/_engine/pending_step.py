"""A step that may not be answered yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from optserve import coercion, errors
from optserve._codec.dtypes import to_tensor, view_bytes
from optserve._codec.payload import encode_pieces
from optserve._codec.receive_buffers import Into
from optserve._codec.sparse_rows import Rows
from optserve._engine.plan import IN_MEMORY, REQUESTS, Collected, Plan
from optserve._engine.step_result import StepResult
from optserve.progress import Bar
from optserve.v1 import session_service_pb2 as wire


class Observer(Protocol):
    """Learns which failures callers have seen."""

    def on_error_raised(self, error: errors.OptserveError) -> None:
        """Called when a step's failure is raised to a caller."""
        ...


class Waiter(Observer, Protocol):
    """Waits for the answers to steps."""

    def wait(self, step: PendingStep, timeout: float | None) -> None:
        """Returns when a step is settled; ``timeout`` in seconds, the waiter's own when None."""
        ...


E_co = TypeVar("E_co", bound=Observer, covariant=True)


class SubmittedStep(Generic[E_co]):
    """A step on its way: its messages, and its result when there is one.

    Args:
        engine: takes it.
        plan: what it has in common with others.
        gradients: ready to be sent.
        rows: sparse rows, in the order of the plan.

    Attributes:
        plan, gradients: as given.
        sequence: its number within its worker; 0 for a validation.
        gradient_id: identifies its gradient if that is in shared memory; else 0.
        start: what else it asks for.
        into: the caller's arrays for the parameters; None for new ones.
        bar: shows its progress; None for none.
        upload_id: identifies its upload, which is resumed if it breaks off; 0 if it is sent again.
        resume_from: how many of its first bytes have arrived.
        is_resolved: whether it is answered, or has failed.
    """

    # What most steps never assign is not assigned in each of them.
    sequence = 0
    gradient_id = 0
    upload_id = 0
    resume_from = 0
    start: wire.StepStart | None = None
    into: Into = None
    bar: Bar | None = None
    is_resolved = False
    _result: StepResult | None = None
    _error: errors.OptserveError | None = None

    def __init__(self, engine: E_co, plan: Plan, gradients: Collected, rows: Sequence[Rows] = ()) -> None:
        self.plan, self.gradients = plan, gradients
        self._engine, self._rows = engine, rows

    def done(self) -> bool:
        """Whether the step is answered, or has failed."""
        return self.is_resolved

    def result_or_raise(self) -> StepResult:
        """Returns the result of a step that is done, or raises its error."""
        if self._error is not None:
            self._engine.on_error_raised(self._error)
            raise self._error
        assert self._result is not None
        return self._result

    def resolve(self, outcome: StepResult | errors.OptserveError) -> None:
        """Takes the answer, or the failure."""
        self.is_resolved, self.gradients, self._rows = True, IN_MEMORY, ()
        if isinstance(outcome, StepResult):
            self._result = outcome
        else:
            self._error = outcome

    def messages(self) -> Iterable[Sequence[Any]]:
        """Returns its messages, each in pieces; chunks are cut while they are iterated."""
        plan = self.plan
        arrays, sources = self.gradients
        request, start = plan.request, plan.start
        if self.start is not None or self._rows or self.upload_id:
            request = wire.StepStreamRequest(step=self.start or wire.StepStart())
            start = request.step
            start.byte_count = plan.start.byte_count
            start.upload_id, start.resume_from = self.upload_id, self.resume_from
        start.sequence, start.gradient_id = self.sequence, self.gradient_id
        if plan.region is not None:
            return ((request.SerializeToString(),),)
        if self._rows:
            arrays = [*arrays, *(some.values for some in self._rows)]
            start.byte_count += sum(some.values.nbytes for some in self._rows)
            start.row_indices.extend(to_tensor(some.indices) for some in self._rows)
        head = request.SerializeToString()
        opening = plan.opening
        if opening and not (self._rows or sources or self.bar):  # one message, as most have
            return ((head, opening, *map(view_bytes, arrays)),)
        on_sent = None if self.bar is None else self.bar.update
        return encode_pieces(REQUESTS, head, arrays, start.byte_count, on_sent, sources, self.resume_from)

    def switch_to_chunks(self, plan: Plan) -> None:
        """Has the gradient sent, whose memory the server does not share any more.

        Args:
            plan: of the same gradients without memory.
        """
        assert self.plan.region is not None
        names, _ = self.plan.tensors
        self.gradients = [self.plan.region.gradients[name] for name in names], ()
        self.plan = plan


class PendingStep(SubmittedStep[Waiter]):
    """A submitted step, like a future; made by `StepStream.submit`."""

    def result(self, timeout: float | None = None) -> StepResult:
        """Waits for the answer; asking again gives the same.

        Args:
            timeout: seconds to wait; the stream's own when None.

        Raises:
            Unavailable: the server could not be reached again. The step stays pending: asking
                again connects again, and it is applied once.
            DeadlineExceeded: no answer arrived in time; the step stays pending.
            Abandoned: an earlier step failed, and this one was not applied.
            OptserveError: the step was refused.
        """
        if self._result is None:
            self._engine.wait(self, coercion.to_optional(coercion.to_seconds, timeout, "timeout"))
        return self.result_or_raise()
