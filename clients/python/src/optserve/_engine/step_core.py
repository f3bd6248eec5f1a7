"""Step core: one worker's steps up to what is sent, and from what is received.

Engines with threads and with coroutines are this and the input and output: they open channels, send
what the protocol has due, wait for messages and for pauses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic

from google.protobuf.message import DecodeError

from optserve import coercion, errors
from optserve._codec.buffer_pool import LARGE_BYTES
from optserve._codec.framing import ChunkAhead, ChunkView, Encoded, Field, Framing
from optserve._codec.layout import Layout
from optserve._codec.payload import Payload
from optserve._codec.receive_buffers import ReceiveBuffers, Reception
from optserve._engine.overrides import Overrides, encode_overrides
from optserve._engine.plan import Plan, PlanOptions, plan_signature
from optserve._engine.shared_memory import SharedMemory
from optserve._engine.shared_regions import SharedRegions
from optserve._engine.step_protocol import Membership, Step, StepProtocol, Verdict
from optserve._engine.step_result import StepResult
from optserve._transport.base_connection import BaseConnection
from optserve._transport.retry import Deadline, transfer_timeout
from optserve.parameters import Parameters
from optserve.v1 import session_service_pb2 as wire

RESPONSES = Framing(wire.StepStreamResponse)
Chunk = ChunkView | ChunkAhead

MAX_WINDOW = 64
"""A server keeps this many results of each worker, and so answers as many steps sent again."""
MIN_SHARED_BYTES = 1 << 16
"""Steps of smaller sessions that are not waited for are sent: in shared memory there is one at a time."""
MAX_PLANS = 8
"""Plans that are kept for steps that take turns."""
HALF_CLOSE_TIMEOUT_S = 0.5
"""Seconds for a server to end a call on which nothing more is sent."""


class StepCore(Generic[Step]):
    """Makes steps, reads their answers, and decides what follows from errors; for one caller at a time.

    Args:
        settings: of the connection to the server.
        name: of the session.
        layout: of the session.
        regions: memory that steps may lie in; None for none. Reading from it may take a call.
        timeout: seconds to wait for an answer, lengthened for what is sent and received.
        window: how many steps may be under way at once.
        member: the worker, and the membership that its steps are taken in; a random name when None.
        step_type: the class of steps.
    """

    def __init__(
        self,
        settings: BaseConnection,
        name: str,
        layout: Layout,
        regions: SharedRegions | None,
        timeout: float,
        window: int,
        member: Membership | None,
        step_type: type[Step],
    ) -> None:
        self._settings, self._name, self._layout = settings, name, layout
        self._regions, self._timeout, self._window = regions, timeout, window
        self._protocol: StepProtocol[Step] = StepProtocol(member)
        self._step_type = step_type
        self._buffers = ReceiveBuffers()
        self._plans: list[Plan] = []  # the last one used comes first
        self._incomplete: tuple[wire.StepStreamResponse, Reception] | None = None
        self._unraised_error: errors.OptserveError | None = None
        self._closed = False

    def on_error_raised(self, error: errors.OptserveError) -> None:
        """Notes that a failure was raised to a caller."""
        if self._unraised_error in (error, error.__cause__):
            self._unraised_error = None

    def _raise_unraised(self) -> None:
        """Raises the failure of a step whose result was not asked for."""
        error, self._unraised_error = self._unraised_error, None
        if error is not None:
            raise error

    def _collect_step(
        self, gradients: Mapping[str, Any], options: PlanOptions, copy: bool, shared: bool
    ) -> Step | None:
        """Makes a step of a known plan; None if there is none for these gradients.

        Args:
            gradients: by tensor name.
            options: what the step asks for.
            copy: whether the gradients are copied; otherwise they stay as they are until they were sent.
            shared: whether they are to be in shared memory.
        """
        for plan in self._plans:
            if plan.options is not options and plan.options != options:
                continue
            if (plan.region is not None) is shared and (plan.region is None or plan.region.is_open):
                collected = plan.prepare_gradients(gradients, copy)
                if collected is not None:
                    if plan is not self._plans[0]:
                        self._move_to_front(plan)
                    return self._step_type(self, plan, collected)
        return None

    def _plan_step(
        self,
        payload: Payload,
        gradients: Mapping[str, Any],
        options: PlanOptions,
        copy: bool,
        region: SharedMemory | None,
    ) -> Step:
        """Makes a step whose gradients no plan has collected; arguments as of `_collect_step`."""
        plan = self._find_or_make_plan(payload, gradients, options, region)
        if region is not None:
            return self._step_type(self, plan, plan.copy_to_shared_memory(payload.arrays))
        if copy:
            rows = [some.copy() for some in payload.rows]
            return self._step_type(self, plan, ([array.copy() for array in payload.arrays], ()), rows)
        return self._step_type(self, plan, (payload.arrays, ()), payload.rows)

    def _find_or_make_plan(
        self,
        payload: Payload,
        gradients: Mapping[str, Any],
        options: PlanOptions,
        region: SharedMemory | None,
    ) -> Plan:
        signature = plan_signature(self._layout, payload)
        for plan in self._plans:
            if (
                plan.options == options
                and plan.region is region
                and (plan.tensors, plan.data_type) == signature
            ):
                plan.record_types(payload, gradients)
                break
        else:
            plan = Plan(self._name, self._layout, options, payload, gradients, region)
        self._move_to_front(plan)
        return plan

    def _move_to_front(self, plan: Plan) -> None:
        """Puts a plan in front of the others, and forgets those that are of no more use."""
        self._plans = [plan, *(p for p in self._plans if p is not plan and p.is_usable)][:MAX_PLANS]

    def _answer_deadline(self, timeout: float | None) -> Deadline:
        """The deadline of the next answer."""
        if timeout is not None or not self._protocol.waiting:
            return Deadline(self._timeout if timeout is None else timeout)
        return Deadline(transfer_timeout(self._timeout, self._protocol.waiting[0].plan.transfer_bytes))

    def _accept_message(self, message: Encoded) -> bool:
        """Takes the next message of the server.

        Args:
            message: as it came.

        Returns:
            Whether it was the last one of the answer to the oldest step.

        Raises:
            OptserveError: it is not what is due.
        """
        sized = None
        try:
            if self._incomplete is None:
                due = self._protocol.due[0]
                layout = None if isinstance(due, Plan) else due.plan.parameters
                sized = RESPONSES.split_sized(message, 0 if layout is None else layout.byte_count)
            head, chunk = sized or RESPONSES.split(message)
        except DecodeError as error:
            raise errors.Internal("the answer is no message of this service") from error
        return self._accept_fields(head, chunk)

    def _accept_partial(self, head: Encoded, others: list[Field], chunk: ChunkAhead) -> bool:
        """Takes a message whose chunk is still on its way; ``others`` are its other fields."""
        try:
            fields = RESPONSES.decode_fields(head, others)
        except DecodeError as error:
            raise errors.Internal("the answer is no message of this service") from error
        return self._accept_fields(fields, chunk)

    def _accept_fields(self, head: wire.StepStreamResponse, chunk: Chunk | None) -> bool:
        """Takes the next message, decoded: its chunk, and its other fields. See `_accept_message`."""
        due = self._protocol.due[0]
        if isinstance(due, Plan):
            self._protocol.accept_plan(head.planned)
            return False
        plan = due.plan
        if self._incomplete is not None:
            head, reception = self._incomplete
            values = self._add_chunk(due, head, reception, chunk)
        elif not head.HasField("result"):
            raise errors.Internal("the answer to a step has no result")
        elif plan.options.pull is None:
            values = Parameters()
        elif plan.region is not None:
            assert self._regions is not None
            values = self._regions.read_parameters(
                plan.region, plan.options.pull, head.parameters_step, head.parameters_change, due.into
            )
        else:
            values = self._begin_parameters(due, head, chunk)
        if values is None:
            return False
        worker = self._protocol.worker if due.sequence else ""
        self._protocol.accept_result(StepResult.from_message(head.result, values, worker))
        return True

    def _begin_parameters(
        self, step: Step, head: wire.StepStreamResponse, chunk: Chunk | None
    ) -> Parameters | None:
        """Returns the parameters that begin with a step's result; None if more of them are due."""
        layout = step.plan.parameters
        if layout is None:
            raise errors.Internal("the answer to the plan has no layout of the parameters")
        if isinstance(chunk, ChunkView) and len(chunk.data) == layout.byte_count < LARGE_BYTES:
            arrays = self._buffers.arrays_from_bytes(layout, chunk.data, step.into)
            return Parameters(arrays, step=head.parameters_step, point=step.plan.point)
        return self._add_chunk(step, head, self._buffers.begin_reception(layout, step.into), chunk)

    def _add_chunk(
        self, step: Step, head: wire.StepStreamResponse, reception: Reception, chunk: Chunk | None
    ) -> Parameters | None:
        """Adds a chunk of the parameters, and returns them when they are complete."""
        if chunk is not None:
            try:
                size = reception.add_chunk(chunk)
            except ValueError as error:
                raise errors.Internal(str(error)) from error
            if step.bar is not None:
                step.bar.update(size)
        if not reception.is_complete:
            self._incomplete = head, reception
            return None
        self._incomplete = None
        return Parameters(reception.complete_arrays(), step=head.parameters_step, point=step.plan.point)

    def _mark_all_unsent(self) -> None:
        """Has the waiting steps sent again over the next channel."""
        self._incomplete = None
        self._protocol.mark_all_unsent()

    def _decide_retry(self, error: errors.OptserveError, attempts: int, deadline: Deadline) -> float | None:
        """Decides what follows from an error that ended the channel.

        Args:
            error: the error.
            attempts: how often the oldest step's answer was waited for.
            deadline: of the answer.

        Returns:
            Seconds after which the waiting steps are sent again; None if the error settled the oldest step.

        Raises:
            OptserveError: no attempt follows; the oldest step stays unanswered.
        """
        if self._closed:
            raise errors.Cancelled("the stream was closed") from error
        if error.reason is errors.Reason.REGION_NOT_FOUND and self._switch_oldest_to_chunks():
            return 0.0
        verdict = self._protocol.accept_error(error)
        if verdict is Verdict.FAILED:
            self._unraised_error = error
            return None
        if verdict is Verdict.SEND_AGAIN:
            return 0.0
        if isinstance(error, errors.Cancelled) and not deadline.remaining():
            raise errors.DeadlineExceeded(f"no answer came in {deadline.seconds:g} s") from error
        pause = self._settings.retry.compute_pause(attempts, error, deadline)
        if pause is None:
            raise error
        return pause

    def _switch_oldest_to_chunks(self) -> bool:
        """Has the oldest step sent whose memory the server does not know, or no more."""
        oldest = self._protocol.waiting[0] if self._protocol.waiting else None
        if oldest is None or oldest.plan.region is None or self._regions is None:
            return False
        self._mark_all_unsent()
        region = oldest.plan.region
        tensors = [self._layout[name] for name in oldest.plan.tensors[0]]
        arrays = [region.gradients[tensor.name] for tensor in tensors]
        payload = Payload(tensors, arrays, len(tensors) == len(self._layout))
        self._regions.drop_region(region)
        oldest.switch_to_chunks(self._find_or_make_plan(payload, region.gradients, oldest.plan.options, None))
        return True


def make_step_start(
    options: PlanOptions,
    expected_step: int | None,
    loss_scale: float | None,
    overrides: Overrides | None,
    parameters_step: int | None = None,
    example_count: int | None = None,
    completed_shards: Sequence[int] = (),
) -> wire.StepStart | None:
    """Returns what a step asks for beside its gradient; None for nothing.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: the expected step is negative or has a fraction.
    """
    if not (options.validate_only or overrides) and expected_step is loss_scale is parameters_step is None:
        return None
    start = wire.StepStart(validate_only=options.validate_only, completed_shards=completed_shards)
    if expected_step is not None:
        start.expected_step = coercion.to_step(expected_step, "expected_step")
    if loss_scale is not None:
        start.loss_scale = coercion.to_float(loss_scale, "loss_scale")
    if overrides:
        start.overrides.extend(encode_overrides(overrides))
    if parameters_step is not None:
        start.parameters_step = parameters_step
    if example_count is not None:
        start.example_count = example_count
    return start
