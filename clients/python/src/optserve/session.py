"""The handle of one training session."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
from numpy.typing import ArrayLike, DTypeLike, NDArray

from optserve import coercion, errors
from optserve._codec.dtypes import Array
from optserve._codec.sparse_rows import AnyGradients
from optserve._engine.overrides import Overrides
from optserve._engine.parameter_transfers import make_pull, make_push
from optserve._engine.shared_regions import SharedRegions
from optserve._engine.step_engine import StepEngine
from optserve._engine.step_protocol import Membership
from optserve._engine.step_result import StepResult
from optserve._transport.call import Call, CallSequence
from optserve._transport.connection import Connection
from optserve.base_session import BaseSessionHandle
from optserve.events import Event, EventWatch
from optserve.extras import import_extra
from optserve.history import History, read_history, read_history_points
from optserve.metrics import MetricsReport, make_report
from optserve.parameters import Parameters, Pull, Pulling
from optserve.progress import ProgressOption
from optserve.session_calls import make_delete, make_get, make_get_worker
from optserve.session_info import SessionInfo
from optserve.snapshots import Snapshots
from optserve.specs.enums import ParameterPoint
from optserve.specs.session_spec import SessionSpec
from optserve.state_transfer import StateTransfer, make_update
from optserve.stream import StepStream
from optserve.v1 import session_service_pb2 as wire
from optserve.v1.worker_service_pb2 import JoinSessionResponse
from optserve.workers import Member, Worker, make_join, make_worker_list

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SessionHandle(BaseSessionHandle):
    """A session on a server; see `Client.create_session` and `Client.session`.

    Each handle is one worker, and keeps a stream open for its steps: each is applied once, also if
    the connection is lost and the step is sent again. Steps from several threads are taken one
    after the other. After a fork, the child's handle is another worker. Leaving a ``with`` block
    keeps the session on the server; `delete` removes it.

    Args:
        connection: to the server.
        info: the session as the server described it.
        worker: name and next sequence of its worker; a random name when None.
    """

    def __init__(self, connection: Connection, info: SessionInfo, worker: Membership | None = None) -> None:
        super().__init__(info)
        self._connection = connection
        regions = SharedRegions(connection, info.name, info.layout)
        self._engine = StepEngine(
            connection, info.name, info.layout, regions, connection.timeout, member=worker
        )

    @property
    def snapshots(self) -> Snapshots:
        """The session's snapshots on the server's disk, and as files."""
        return Snapshots(self._connection, self.name, self._accept_restored)

    def step(
        self,
        gradients: AnyGradients,
        *,
        pull: Pulling = False,
        wire_dtype: DTypeLike | None = None,
        expected_step: int | None = None,
        loss_scale: float | None = None,
        validate_only: bool = False,
        per_tensor_norms: bool = False,
        overrides: Overrides | None = None,
        into: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> StepResult:
        """Takes one step.

        Args:
            gradients: arrays of float16, bfloat16, float32 or float64 by tensor name, or (name, array)
                pairs. Tensors that are left out do not change. `SparseRows` are some rows of a tensor; their
                indices together must fit into one message (64 MiB).
            pull: True returns the new parameters in the same answer; a point, an element type or a
                `Pull` selects them.
            wire_dtype: element type to send gradients in, and parameters if ``pull`` names none.
            expected_step: the step that the session must have.
            loss_scale: factor of the loss, by which gradients are divided.
            validate_only: checks and measures the step, and applies nothing; pulled parameters are the
                current ones.
            per_tensor_norms: whether to return the norm of each tensor's gradient.
            overrides: hyperparameters that have other values in this step only: values by name, for
                every group; or for one group (empty name: the default group), values by name under
                the group's name, as in ``{"encoder": {"learning_rate": 0.01}}``.
            into: arrays by tensor name that are filled with the parameters, such as the model's own;
                new ones when None. They must not share memory with the gradients. After an error they
                may contain a part of the new values.
            timeout: seconds in all; the client's default, lengthened for large gradients, when None.

        Raises:
            InvalidArgument: a name, a shape or the gradient is wrong; nothing was applied.
            ValueError: there is no gradient, or ``into`` does not match what is pulled; nothing was sent.
            TypeError: an element type is wrong; nothing was sent.
            StepMismatch: the session has another step than expected.
            TrainingStopped: early stopping has ended the training.
            Unavailable, DeadlineExceeded: there was no answer; the step may have been applied.
                Repeating it with the same gradients applies them once.
            OptserveError: another error of the server.
        """
        timeout = coercion.to_optional(coercion.to_seconds, timeout, "timeout")
        options = self._select_options(pull, wire_dtype, per_tensor_norms, validate_only, into)
        result = self._engine.step(
            gradients,
            options,
            expected_step=expected_step,
            loss_scale=loss_scale,
            overrides=overrides,
            into=into,
            timeout=timeout,
            progress=self._connection.progress,
        )
        self._step = max(self._step, result.step)
        return result

    def stream(
        self,
        *,
        pull: Pulling = False,
        wire_dtype: DTypeLike | None = None,
        window: int = 8,
        worker: str | None = None,
        timeout: float | None = None,
        shared_memory: bool | None = None,
        in_place: bool = False,
    ) -> StepStream:
        """Opens a stream for many steps; use it in a ``with`` block.

        Args:
            pull: what to return with each answer, as in `step`.
            wire_dtype: element type of gradients, and of parameters if ``pull`` names none.
            window: maximum number of steps in flight, up to 64.
            worker: name under which the stream numbers its steps, as in `Client.session`; a random one
                when None. With a name, the server is asked for its next number.
            timeout: seconds to wait for an answer; the client's default when None.
            shared_memory: whether steps use shared memory, which needs a server on this host that runs as
                the same user. None tries it if the server's address is a loopback address or a
                Unix socket, unless `connect` was called without it. If it fails, steps are sent,
                and the log has the reason.
            in_place: whether the parameters of results are read-only views of shared memory, not copies.
                They show the session's current parameters: the next step of this or any other
                worker changes them.
        """
        seconds = coercion.to_timeout(self._connection.timeout, timeout)
        regions = SharedRegions(self._connection, self.name, self.layout, shared_memory, in_place)
        numbered = None
        if worker is not None:
            get = make_get_worker(self.name, worker)
            _, numbered = self._connection.call(get, timeout)
        return StepStream(
            self._connection, self.name, self.layout, pull, wire_dtype, window, seconds, regions, numbered
        )

    def pull(
        self,
        tensors: Sequence[str] | None = None,
        *,
        point: ParameterPoint | None = None,
        wire_dtype: DTypeLike | None = None,
        if_newer_than_step: int | None = None,
        newer_than_step: int | None = None,
        into: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> Parameters:
        """Reads parameters.

        Args:
            tensors: names; all when None.
            point: the parameters, the look-ahead point or the average; the parameters when None.
            wire_dtype: element type to send them in; each tensor's own when None.
            if_newer_than_step: sends nothing unless the session's step is greater; the answer is
                then empty and its ``modified`` False.
            newer_than_step: waits until the session's step is greater, for up to ``timeout`` seconds.
            into: arrays by tensor name that are filled, such as the model's own; new ones when None.
                After an error they may contain a part of the values.
            timeout: seconds in all; the client's default, lengthened for large tensors, when None.

        Raises:
            InvalidArgument: a tensor or the wire type is wrong.
            FailedPrecondition: the session has no such point, or its parameters are not uploaded yet.
            ValueError: ``into`` does not match.
            OptserveError: another error of the server, or it could not be reached.
        """
        pull = make_pull(
            self._connection,
            self.name,
            self.layout,
            Pull(tensors=tensors, point=point, wire_dtype=wire_dtype),
            if_newer_than_step=if_newer_than_step,
            newer_than_step=newer_than_step,
            into=into,
            timeout=timeout,
        )
        return self._connection.download(pull.then(self._accept_step))

    def push(
        self,
        values: Mapping[str, ArrayLike] | Iterable[tuple[str, ArrayLike]],
        *,
        expected_step: int | None = None,
        reset_state: bool = False,
        wire_dtype: DTypeLike | None = None,
        timeout: float | None = None,
        progress: ProgressOption = None,
    ) -> SessionInfo:
        """Writes parameters: all given ones, or none.

        Args:
            values: arrays by tensor name, or (name, array) pairs.
            expected_step: the step that the session must have.
            reset_state: whether the tensors' optimizer state is initialized.
            wire_dtype: element type to send them in; that of the arrays when None.
            timeout: seconds in all; the client's default, lengthened for large arrays, when None.
            progress: whether a bar is shown; the client's default when None.

        Raises:
            InvalidArgument: a tensor is wrong.
            StepMismatch: the session has another step than expected.
            OptserveError: another error of the server, or it could not be reached.
        """
        push = make_push(
            self._connection,
            self.name,
            self.layout,
            values,
            expected_step=expected_step,
            reset_state=reset_state,
            wire_dtype=wire_dtype,
            progress=progress,
        )
        return self._connection.upload(push.then(self._accept_info), timeout)

    def report(
        self,
        metrics: Mapping[str, float] | Iterable[tuple[str, float]],
        *,
        expected_step: int | None = None,
        timeout: float | None = None,
    ) -> MetricsReport:
        """Reports metrics of the current model, such as the loss on a validation set.

        They are added to the session's `history`; `ReduceOnPlateau` and `EarlyStopping` use those
        that they monitor. Each report is counted once, also if the
        connection is lost and the report is sent again.

        Args:
            metrics: values by name, each a number; `history` has all of them.
            expected_step: the step that the session must have.
            timeout: seconds in all; the client's default when None.

        Raises:
            InvalidArgument: a name is wrong.
            ResourceExhausted: the session has 64 metrics, and this would be another.
            TrainingStopped: an earlier report ended the training.
            StepMismatch: the session has another step than expected.
            OptserveError: another error of the server, or it could not be reached.
        """
        report = make_report(self.name, metrics, expected_step)
        return self._connection.call(report.then(self._accept_step), timeout)

    def update(
        self, spec: SessionSpec, *, expected_step: int | None = None, timeout: float | None = None
    ) -> dict[str, StateTransfer]:
        """Changes the specification between two steps, to another optimizer for example.

        `spec` is a frozen dataclass, so ``dataclasses.replace(session.spec, optimizer=...)`` makes a
        changed one. The specification is replaced completely; state is carried over by name.

        Args:
            spec: the new specification, of the same groups.
            expected_step: the step that the session must have.
            timeout: seconds in all; the client's default when None.

        Returns:
            The transfer of state by group; the default group's name is empty.

        Raises:
            InvalidArgument: the specification is wrong, or the groups' members would change.
            FailedPrecondition: a step is partly accumulated.
            StepMismatch: the session has another step than expected.
            OptserveError: another error of the server, or it could not be reached.
        """
        update = make_update(self.name, spec, expected_step)
        return self._connection.call(update.then(self._accept_update), timeout)

    def join(
        self, worker: str | None = None, *, lease: float | None = None, timeout: float | None = None
    ) -> Member:
        """Makes this process a worker of the session; use it in a ``with`` block.

        ``spec.coordination`` says how the steps of several workers are combined.

        Args:
            worker: name of the worker; a random one when None. A worker that joins again takes the
                place of its earlier incarnation, whose steps are rejected from then on.
            lease: seconds without a call after which the server takes the worker for lost; 30 when None.
            timeout: seconds in all; the client's default when None.

        Raises:
            ResourceExhausted: there are as many members as there may be.
            OptserveError: another error of the server, or it could not be reached.
        """
        worker = worker or uuid.uuid4().hex
        return self._join(worker, make_join(self.name, worker, lease), timeout)

    def workers(self, *, timeout: float | None = None) -> list[Worker]:
        """Lists the members by rank, and then those that were members, by name."""
        return self._connection.call(make_worker_list(self.name), timeout)

    def history(self, *, timeout: float | None = None) -> History:
        """Reads the steps and the reported metrics, the older ones thinned.

        The last 4096 steps and the last 1024 values of each metric are complete; of older ones there
        is every second, fourth, eighth and so on.

        Args:
            timeout: seconds for each page of 10,000 points; the client's default when None.

        Returns:
            Structured arrays: ``history.steps["gradient_norm"]``, ``history.metrics["loss"]["value"]``.

        Raises:
            NotFound: there is no such session.
            OptserveError: another error of the server, or it could not be reached.
        """
        return self._connection.call_sequence(read_history(self.name), timeout)

    def plot(self, *, timeout: float | None = None) -> Figure:
        """Draws learning rate, gradient norms and reported metrics over the session's steps.

        Args:
            timeout: seconds for each page of the history; the client's default when None.

        Returns:
            A figure of matplotlib, which notebooks show; ``figure.savefig("history.png")`` writes it.

        Raises:
            ImportError: matplotlib is missing; ``pip install 'optserve[plot]'``.
            NotFound: there is no such session.
            OptserveError: another error of the server, or it could not be reached.
        """
        drawing = import_extra("optserve.plotting.history_figure", "plot", "matplotlib")
        figure: CallSequence[Figure] = drawing.plot_history(self.name)
        return self._connection.call_sequence(figure, timeout)

    def read_history_points(
        self, metric: str = "", *, after_number: int = 0, timeout: float | None = None
    ) -> tuple[NDArray[Any], list[str]]:
        """Reads the part of the history that follows a point.

        Args:
            metric: name of a metric; empty for the steps.
            after_number: number of the point, as in `history`; 0 for all.
            timeout: seconds for each page of 10,000 points; the client's default when None.

        Returns:
            A structured array as in `history`, and the names of the session's metrics.

        Raises:
            NotFound: there is no such session.
            OptserveError: another error of the server, or it could not be reached.
        """
        after_number = coercion.to_step(after_number, "after_number")
        points = read_history_points(self.name, metric, after_number)
        return self._connection.call_sequence(points, timeout)

    def watch(self) -> Iterator[Event]:
        """Yields the session's events until it is deleted or the iterator is closed.

        If the connection is lost, the session is watched again. The events after that begin with a further
        `events.Began`, whose ``dropped`` counts the steps that were taken meanwhile.

        Raises:
            NotFound: there is no such session, or not any more.
            Unavailable: the server could not be reached again within the client's time-out.
        """
        connection = self._connection
        watch = EventWatch(connection.retry, connection.timeout)
        request = wire.WatchSessionRequest(name=self.name)
        while True:
            call = connection.stubs.sessions.WatchSession(request, metadata=connection.metadata)
            try:
                yield from filter(None, map(watch.decode, call))
                return
            except grpc.RpcError as failure:
                error = errors.from_call(failure)
            finally:
                call.cancel()
            pause = watch.compute_pause(error)
            if pause is None:
                connection.add_error_context(error, watch.failures, watch.deadline)
                raise error
            connection.pause(pause, error)

    def get(self, *, timeout: float | None = None) -> SessionInfo:
        """Reads the session's current state."""
        return self._connection.call(make_get(self.name).then(self._accept_info), timeout)

    def delete(self, *, timeout: float | None = None) -> None:
        """Deletes the session and everything it holds."""
        self._engine.disconnect()
        self._connection.call(make_delete(self.name), timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keeps the session on the server."""

    def _join(self, worker: str, join: Call[JoinSessionResponse], timeout: float | None) -> Member:
        joined = self._connection.call(join, timeout)
        return Member(self._connection, self.name, self.layout, worker, joined)
