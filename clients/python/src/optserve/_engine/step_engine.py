"""Step engine: the steps of one worker over a channel, for threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import grpc

from optserve import coercion, errors
from optserve._codec.layout import Layout
from optserve._codec.payload import Payload
from optserve._codec.receive_buffers import Into
from optserve._codec.sparse_rows import AnyGradients
from optserve._engine.overrides import Overrides
from optserve._engine.pending_step import PendingStep
from optserve._engine.plan import PlanOptions
from optserve._engine.shared_memory import SharedMemory
from optserve._engine.shared_regions import SharedRegions
from optserve._engine.step_core import (
    HALF_CLOSE_TIMEOUT_S,
    MIN_SHARED_BYTES,
    RESPONSES,
    StepCore,
    make_step_start,
)
from optserve._engine.step_protocol import Membership
from optserve._engine.step_result import StepResult
from optserve._transport import fork
from optserve._transport.channel import Channel
from optserve._transport.connection import Connection
from optserve._transport.data_channel import NoDataConnection
from optserve._transport.data_connection import PartialMessage
from optserve._transport.retry import Deadline, transfer_timeout
from optserve.progress import LARGE, ProgressOption, make_progress_bar


class StepEngine(StepCore[PendingStep]):
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

    _regions: SharedRegions

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
        super().__init__(connection, name, layout, regions, timeout, window, member, PendingStep)
        self._connection = connection
        self._lock = threading.Lock()
        self._channel: Channel | None = None
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
        progress: ProgressOption = False,
    ) -> StepResult:
        """Takes a step and waits for its answer; see `SessionHandle.step`."""
        lock = self._lock
        if not lock.acquire(timeout=-1 if timeout is None else timeout):
            raise errors.DeadlineExceeded(f"other steps took longer than {timeout:g} s", applied=False)
        try:
            stated = None if timeout is None else Deadline(timeout)
            step = self._prepare_step(gradients, options, copy=False, deadline=stated)
            step.start = make_step_start(
                options,
                expected_step,
                loss_scale,
                overrides,
                parameters_step,
                example_count,
                completed_shards,
            )
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
            step.start = make_step_start(options, expected_step, loss_scale, overrides)
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
        self._incomplete = None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.detach_in_child()
        self._protocol.after_fork()
        self._regions.close()

    def __del__(self) -> None:
        if hasattr(self, "_channel"):
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
        step = self._collect_step(gradients, options, copy, shared)
        if step is not None:
            return step
        payload = Payload.of_gradients(self._layout, gradients, options.wire_dtype)
        region = None
        if shared:
            timeout = self._timeout if deadline is None else deadline.remaining()
            region = self._regions.find_or_request_region(payload, options.pull, timeout)
        return self._plan_step(payload, gradients, options, copy, region)

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
                        self._read_message(channel)
                    self._send_unsent(channel)
                    while not self._read_message(channel):
                        pass
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
        if isinstance(error, NoDataConnection) and not self._closed:
            self._connection.disable_data_connections(error)
            return False
        try:
            pause = self._decide_retry(error, attempts, deadline)
        except errors.OptserveError as final:
            self._connection.add_error_context(final, attempts, deadline)
            raise
        if pause:
            self._connection.pause(pause, error)
        return pause is None

    def _open_channel(self) -> Channel:
        if self._closed:
            raise errors.Cancelled("the stream was closed")
        self._channel = self._connection.open_steps(self._protocol.begin_stream())
        return self._channel

    def _send_unsent(self, channel: Channel) -> None:
        protocol = self._protocol
        while protocol.sent < len(protocol.waiting):
            channel.send(*protocol.take_unsent())

    def _read_message(self, channel: Channel) -> bool:
        """Reads the next message; whether it was the last one of the answer to the oldest step."""
        message = channel.receive()
        if message is None:
            raise errors.Unavailable("the stream ended before its answer")
        if isinstance(message, PartialMessage):
            known = RESPONSES.parse_head(message.head, message.size, message.receive_rest)
            if known is not None:
                return self._accept_partial(message.head, *known)
            message = message.receive_whole()
        return self._accept_message(message)

    def _finish_channel(self) -> None:
        """Ends the channel, with a word to the server if nothing is under way."""
        if self._protocol.waiting or self._channel is None:
            self._cancel_channel()
            return
        channel, self._channel = self._channel, None
        self._mark_all_unsent()
        watchdog = self._connection.watchdog
        watchdog.watch(self, time.monotonic() + HALF_CLOSE_TIMEOUT_S, channel.cancel)
        channel.finish()
        watchdog.stop_watching(self)

    def _cancel_channel(self) -> None:
        """Ends the channel at once; what was sent is to be sent again."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.cancel()
        self._mark_all_unsent()
