"""Step engine: the steps of one worker over a channel."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import grpc
from google.protobuf.message import DecodeError

from optserve import coercion, errors
from optserve._codec.buffer_pool import LARGE_BYTES
from optserve._codec.dtypes import Array
from optserve._codec.framing import ChunkAhead, ChunkView, Framing
from optserve._codec.layout import Layout
from optserve._codec.payload import Payload
from optserve._codec.receive_buffers import Into, ReceiveBuffers
from optserve._codec.sparse_rows import AnyGradients
from optserve._engine.overrides import Overrides, encode_overrides
from optserve._engine.pending_step import PendingStep
from optserve._engine.plan import Plan, PlanOptions, plan_signature
from optserve._engine.shared_memory import SharedMemory
from optserve._engine.shared_regions import SharedRegions
from optserve._engine.step_protocol import Membership, StepProtocol, Verdict
from optserve._engine.step_result import StepResult
from optserve._transport import fork
from optserve._transport.channel import Channel
from optserve._transport.connection import Connection
from optserve._transport.data_channel import NoDataConnection
from optserve._transport.data_connection import PartialMessage
from optserve._transport.retry import Deadline, transfer_timeout
from optserve.parameters import Parameters
from optserve.progress import LARGE, make_progress_bar
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


class StepEngine:
    """Sends steps, several of them in flight at once, for any number of threads.

    A channel is opened with the first step, and again when it was lost; then the steps that were
    not answered are sent again. In a forked child, the engine is another worker.

    Args:
        connection: to the server.
        name: of the session.
        layout: of the session.
        regions: memory that steps may lie in.
        timeout: seconds to wait for an answer, lengthened for what is sent and received.
        window: how many steps may be under way at once.
        member: the worker, and the membership that its steps are taken in; a random name when None.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        layout: Layout,
        regions: SharedRegions,
        timeout: float,
        window: int = 1,
        member: Membership | None = None,
    ) -> None:
        self._connection, self._name, self._layout = connection, name, layout
        self._regions, self._timeout, self._window = regions, timeout, window
        self._protocol = StepProtocol(member)
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._buffers = ReceiveBuffers()
        self._plans: list[Plan] = []  # the last one used comes first
        self._unraised_error: errors.OptserveError | None = None
        self._closed = False
        fork.register_after_fork(self)
        connection.register_closable(self)

    def step(
        self,
        gradients: AnyGradients,
        options: PlanOptions,
        *,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        overrides: Overrides | None = None,
        example_count: int | None = None,
        parameters_step: int | None = None,
        completed_shards: Sequence[int] = (),
        into: Into = None,
        timeout: float | None = None,
        progress: bool | None = False,
    ) -> StepResult:
        """Takes a step and waits for its answer; see `SessionHandle.step`."""
        lock = self._lock
        if not lock.acquire(timeout=-1 if timeout is None else timeout):
            raise errors.DeadlineExceeded(f"other steps took longer than {timeout:g} s", applied=False)
        try:
            stated = None if timeout is None else Deadline(timeout)
            step = self._prepare_step(gradients, options, copy=False, deadline=stated)
            if expected_step is not None or loss_scale is not None or overrides or options.validate_only:
                step.start = _make_step_start(options, expected_step, loss_scale, overrides)
            if parameters_step is not None:
                step.start = step.start or wire.StepStart()
                step.start.parameters_step = parameters_step
                if example_count is not None:
                    step.start.example_count = example_count
                step.start.completed_shards.extend(completed_shards)
            if into is not None:
                step.into = into
            byte_count = step.plan.transfer_bytes
            deadline = stated or Deadline(transfer_timeout(self._timeout, byte_count))
            if progress is False or (progress is None and byte_count < LARGE):
                return self._run_step(step, deadline)
            with make_progress_bar("step", byte_count, progress) as step.bar:
                return self._run_step(step, deadline)
        finally:
            lock.release()

    def submit(
        self,
        gradients: AnyGradients,
        options: PlanOptions,
        *,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        overrides: Overrides | None = None,
    ) -> PendingStep:
        """Hands over a step without waiting for its answer; see `StepStream.submit`."""
        with self._lock:
            step = self._prepare_step(gradients, options, copy=True)
            if expected_step is not None or loss_scale is not None or overrides:
                step.start = _make_step_start(options, expected_step, loss_scale, overrides)
            self._protocol.add_step(step)
            channel, watchdog = self._channel or self._open_channel(), self._connection.watchdog
            watchdog.watch(self, self._answer_deadline(None).at, channel.cancel)
            try:
                self._send_unsent(channel)
            except (grpc.RpcError, errors.OptserveError):
                self._cancel_channel()  # it is sent again when its answer is waited for
            except BaseException:
                self._cancel_channel()
                self._protocol.withdraw_step(step)
                raise
            finally:
                watchdog.stop_watching(self)
            return step

    def wait(self, step: PendingStep, timeout: float | None) -> None:
        """Waits until a step is done.

        Args:
            step: was handed over.
            timeout: seconds for each answer; the engine's own when None.

        Raises:
            Unavailable: the server could not be reached; the step stays pending.
            DeadlineExceeded: no answer arrived in time; the step stays pending.
        """
        with self._lock:
            while not step.is_resolved:
                self._settle_oldest_step(self._answer_deadline(timeout))

    def flush(self) -> None:
        """Waits until every step is done."""
        with self._lock:
            while self._protocol.waiting:
                self._settle_oldest_step(self._answer_deadline(None))
            self._raise_unraised()

    def find_region(self, gradients: AnyGradients, options: PlanOptions) -> SharedMemory | None:
        """Returns the shared memory that such gradients go to, if there is any."""
        with self._lock:
            return self._prepare_step(gradients, options, copy=False).plan.region

    def on_error_raised(self, error: errors.OptserveError) -> None:
        """Notes that a failure was raised to a caller."""
        if self._unraised_error in (error, error.__cause__):
            self._unraised_error = None

    def close(self) -> None:
        """Ends the channel; whether unanswered steps are applied is left open."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._finish_channel()
                self._regions.close()
            finally:
                self._lock.release()
        elif (channel := self._channel) is not None:
            channel.cancel()  # the thread that waits for an answer ends the rest

    def disconnect(self) -> None:
        """Ends channel and memory until the next step."""
        with self._lock:
            self._finish_channel()
            self._regions.close()

    def after_fork(self) -> None:
        """Becomes another worker in a forked child."""
        self._lock = threading.Lock()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.detach_in_child()
        self._protocol.after_fork()
        self._regions.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self._cancel_channel()

    def _prepare_step(
        self, gradients: AnyGradients, options: PlanOptions, copy: bool, deadline: Deadline | None = None
    ) -> PendingStep:
        """Makes a step when the window admits it; ``deadline`` is the step's own, if it has one."""
        if self._closed:
            raise RuntimeError("the stream, or its client, is closed")
        gradients = coercion.to_mapping(gradients, "gradients")
        protocol = self._protocol
        shared = self._regions.on and not options.validate_only
        if shared:
            shared = not copy or self._layout.byte_count >= MIN_SHARED_BYTES
            shared = shared and not protocol.must_resend_gradient
        if protocol.waiting:
            alone = shared or any(step.plan.region is not None for step in protocol.waiting)
            while len(protocol.waiting) >= (1 if alone else self._window):
                self._settle_oldest_step(self._answer_deadline(None))
        if self._unraised_error is not None:
            self._raise_unraised()
        for plan in self._plans:
            if plan.options is not options and plan.options != options:
                continue
            if (plan.region is not None) is shared and (plan.region is None or plan.region.is_open):
                collected = plan.prepare_gradients(gradients, copy)
                if collected is not None:
                    if plan is not self._plans[0]:
                        self._move_to_front(plan)
                    return PendingStep(self, plan, collected)
        return self._prepare_uncollected_step(gradients, options, copy, shared, deadline)

    def _prepare_uncollected_step(
        self,
        gradients: AnyGradients,
        options: PlanOptions,
        copy: bool,
        shared: bool,
        deadline: Deadline | None,
    ) -> PendingStep:
        """Makes a step whose gradients no plan has collected."""
        payload = Payload.of_gradients(self._layout, gradients, options.wire_dtype)
        region = None
        if shared:
            timeout = self._timeout if deadline is None else deadline.remaining()
            region = self._regions.find_or_request_region(payload, options.pull, timeout)
        plan = self._find_or_make_plan(payload, gradients, options, region)
        if region is not None:
            return PendingStep(self, plan, plan.copy_to_shared_memory(payload.arrays))
        if copy:
            rows = [some.copy() for some in payload.rows]
            return PendingStep(self, plan, ([array.copy() for array in payload.arrays], ()), rows)
        return PendingStep(self, plan, (payload.arrays, ()), payload.rows)

    def _find_or_make_plan(
        self, payload: Payload, gradients: AnyGradients, options: PlanOptions, region: SharedMemory | None
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

    def _raise_unraised(self) -> None:
        """Raises the failure of a step whose result was not asked for."""
        error, self._unraised_error = self._unraised_error, None
        if error is not None:
            raise error

    def _move_to_front(self, plan: Plan) -> None:
        """Puts a plan in front of the others, and forgets those that are of no more use."""
        self._plans = [plan, *(p for p in self._plans if p is not plan and p.is_usable)][:MAX_PLANS]

    def _answer_deadline(self, timeout: float | None) -> Deadline:
        """The deadline of the next answer."""
        if timeout is not None or not self._protocol.waiting:
            return Deadline(self._timeout if timeout is None else timeout)
        return Deadline(transfer_timeout(self._timeout, self._protocol.waiting[0].plan.transfer_bytes))

    def _run_step(self, step: PendingStep, deadline: Deadline) -> StepResult:
        """Takes a step that is waited for at once."""
        self._protocol.add_step(step)
        try:
            while not step.is_resolved:
                self._settle_oldest_step(deadline)
        except BaseException:
            if not step.is_resolved:
                # The arrays are the caller's again, and so is the decision whether to go on.
                self._cancel_channel()
                self._protocol.withdraw_step(step)
                if step.plan.region is not None:
                    self._regions.drop_region(step.plan.region, lost=False)  # the server may still read it
            raise
        return step.result_or_raise()

    def _settle_oldest_step(self, deadline: Deadline) -> None:
        """Reads the answer to the oldest step, connecting again if that helps.

        Raises:
            Unavailable: it did not help; the step stays unanswered.
            DeadlineExceeded: no answer arrived in time; the step stays pending.
        """
        attempts, watchdog = 0, self._connection.watchdog
        while True:
            attempts += 1
            try:
                channel = self._channel or self._open_channel()
                watchdog.watch(self, deadline.at, channel.cancel)
                try:
                    if self._protocol.epoch and self._protocol.may_resume:
                        self._receive_plan_answer(channel)
                    self._send_unsent(channel)
                    self._read_oldest_result(channel)
                finally:
                    watchdog.stop_watching(self)
                if time.monotonic() >= deadline.at:
                    self._cancel_channel()  # the watchdog may have cancelled it just after the answer
                return
            except grpc.RpcError as failure:
                error = errors.from_call(failure)
            except errors.OptserveError as failure:
                error = failure
            except BaseException:
                self._cancel_channel()  # an answer may have been read in part
                raise
            if self._handle_error(error, attempts, deadline):
                return

    def _handle_error(self, error: errors.OptserveError, attempts: int, deadline: Deadline) -> bool:
        """Whether an error has settled the oldest step; False if it is to be tried again."""
        self._cancel_channel()
        if self._closed:
            raise errors.Cancelled("the stream was closed") from error
        if isinstance(error, NoDataConnection):
            self._connection.disable_data_connections(error)
            return False
        if error.reason is errors.Reason.REGION_NOT_FOUND and self._switch_oldest_to_chunks():
            return False
        verdict = self._protocol.accept_error(error)
        if verdict is Verdict.FAILED:
            self._unraised_error = error
        if verdict is not Verdict.RETRY:
            return verdict is Verdict.FAILED
        if isinstance(error, errors.Cancelled) and not deadline.remaining():
            late = errors.DeadlineExceeded(f"no answer came in {deadline.seconds:g} s")
            self._connection.add_error_context(late, attempts, deadline)
            raise late from error
        sleep = self._connection.sleep_while_connecting
        if not self._connection.retry.wait_before_retry(attempts, error, deadline, sleep):
            self._connection.add_error_context(error, attempts, deadline)
            raise error
        return False

    def _open_channel(self) -> Channel:
        if self._closed:
            raise errors.Cancelled("the stream was closed")
        self._channel = self._connection.open_steps(self._protocol.begin_stream())
        return self._channel

    def _send_unsent(self, channel: Channel) -> None:
        protocol = self._protocol
        while protocol.sent < len(protocol.waiting):
            channel.send(*protocol.take_unsent())

    def _read_oldest_result(self, channel: Channel) -> None:
        """Reads what is due, up to the answer to the oldest step."""
        due = self._protocol.due
        try:
            while isinstance(due[0], Plan):
                self._receive_plan_answer(channel)
            self._protocol.accept_result(self._receive_result(due[0], channel))
        except DecodeError as error:
            raise errors.Internal("the answer is no message of this service") from error

    def _receive_plan_answer(self, channel: Channel) -> None:
        """Reads the answer to a plan."""
        self._protocol.accept_plan(_receive_message(channel, 0)[0].planned)

    def _receive_result(self, step: PendingStep, channel: Channel) -> StepResult:
        """Reads the answer to a step."""
        plan = step.plan
        layout = plan.parameters
        head, chunk = _receive_message(channel, 0 if layout is None else layout.byte_count)
        if not head.HasField("result"):
            raise errors.Internal("the answer to a step has no result")
        if plan.options.pull is None:
            values = Parameters()
        elif plan.region is not None:
            values = self._regions.read_parameters(
                plan.region, plan.options.pull, head.parameters_step, head.parameters_change, step.into
            )
        else:
            arrays = self._receive_parameters(step, chunk, channel)
            values = Parameters(arrays, step=head.parameters_step, point=plan.point)
        return StepResult.from_message(head.result, values, self._protocol.worker if step.sequence else "")

    def _receive_parameters(
        self, step: PendingStep, chunk: Chunk | None, channel: Channel
    ) -> dict[str, Array]:
        """Receives the parameters that follow a step.

        Args:
            step: the step.
            chunk: the first chunk, if it came with the result.
            channel: the others come from there.
        """
        layout = step.plan.parameters
        if layout is None:
            raise errors.Internal("the answer to the plan has no layout of the parameters")
        if isinstance(chunk, ChunkView) and len(chunk.data) == layout.byte_count < LARGE_BYTES:
            return self._buffers.arrays_from_bytes(layout, chunk.data, step.into)
        reception = self._buffers.begin_reception(layout, step.into)
        while not reception.is_complete:
            if chunk is not None:
                try:
                    size = reception.add_chunk(chunk)
                except ValueError as error:
                    raise errors.Internal(str(error)) from error
                if step.bar is not None:
                    step.bar.update(size)
            if not reception.is_complete:
                _, chunk = _receive_message(channel, None)
        return reception.complete_arrays()

    def _switch_oldest_to_chunks(self) -> bool:
        """Has the oldest step sent whose memory the server does not know, or no more."""
        oldest = self._protocol.waiting[0] if self._protocol.waiting else None
        if oldest is None or oldest.plan.region is None:
            return False
        self._protocol.mark_all_unsent()
        region = oldest.plan.region
        tensors = [self._layout[name] for name in oldest.plan.tensors[0]]
        arrays = [region.gradients[tensor.name] for tensor in tensors]
        payload = Payload(tensors, arrays, len(tensors) == len(self._layout))
        self._regions.drop_region(region)
        oldest.switch_to_chunks(self._find_or_make_plan(payload, region.gradients, oldest.plan.options, None))
        return True

    def _finish_channel(self) -> None:
        """Ends the channel, with a word to the server if nothing is under way."""
        if self._protocol.waiting or self._channel is None:
            self._cancel_channel()
            return
        channel, self._channel = self._channel, None
        self._protocol.mark_all_unsent()
        watchdog = self._connection.watchdog
        watchdog.watch(self, time.monotonic() + HALF_CLOSE_TIMEOUT_S, channel.cancel)
        channel.finish()
        watchdog.stop_watching(self)

    def _cancel_channel(self) -> None:
        """Ends the channel at once; what was sent is to be sent again."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.cancel()
        self._protocol.mark_all_unsent()


def _make_step_start(
    options: PlanOptions, expected_step: int | None, loss_scale: float | None, overrides: Overrides | None
) -> wire.StepStart:
    """What a step asks for beside its gradient.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: the expected step is negative or has a fraction.
    """
    start = wire.StepStart(validate_only=options.validate_only)
    if expected_step is not None:
        start.expected_step = coercion.to_step(expected_step, "expected_step")
    if loss_scale is not None:
        start.loss_scale = coercion.to_float(loss_scale, "loss_scale")
    if overrides:
        start.overrides.extend(encode_overrides(overrides))
    return start


def _receive_message(
    channel: Channel, chunk_bytes: int | None
) -> tuple[wire.StepStreamResponse, Chunk | None]:
    """Waits for a message.

    Args:
        channel: receives it.
        chunk_bytes: length of the chunk that it is likely to have, 0 for no chunk; None if unknown.

    Returns:
        Its fields but for the chunk, and the chunk.
    """
    message = channel.receive()
    if message is None:
        raise errors.Unavailable("the stream ended before its answer")
    if isinstance(message, PartialMessage):
        known = RESPONSES.parse_head(message.head, message.size, message.receive_rest)
        if known is not None:
            return RESPONSES.decode_fields(message.head, known[0]), known[1]
        message = message.receive_whole()
    sized = None if chunk_bytes is None else RESPONSES.split_sized(message, chunk_bytes)
    return sized or RESPONSES.split(message)
