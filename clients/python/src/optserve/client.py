"""The client: sessions and functions of one server."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Literal, Self, overload

import grpc
import numpy as np
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]
from numpy.typing import ArrayLike, DTypeLike, NDArray

from optserve import coercion, errors, spec
from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve._engine.step_protocol import Membership
from optserve._transport.connection import Connection
from optserve._transport.retry import Retry
from optserve.capabilities import Capabilities
from optserve.complexity import AnyOptimizer, NetworkComplexity
from optserve.file_access import FileLike
from optserve.function_calls import AnyActivation, AnyLoss, LossValue, encode_tensor, optional_tensor
from optserve.parameter_init import Initialized, encode_parameter, to_parameter_array
from optserve.session import SessionHandle
from optserve.session_info import SessionInfo
from optserve.snapshots import import_session
from optserve.specs.activations import Activation
from optserve.specs.enums import StepCounting
from optserve.specs.layers import Network
from optserve.specs.losses import Loss
from optserve.specs.optimizers import Optimizer
from optserve.specs.schedules import Schedule
from optserve.specs.session_spec import (
    Coordination,
    DataPlan,
    Durability,
    EarlyStopping,
    Gradient,
    Lease,
    ParameterGroup,
    ReduceOnPlateau,
    SessionSpec,
    WeightAverage,
)
from optserve.v1 import capabilities_service_pb2, function_service_pb2
from optserve.v1 import session_service_pb2 as wire

INLINE_BYTES = 1 << 20
"""Parameters with more bytes are uploaded after the session is created."""


def connect(
    target: str,
    *,
    timeout: float | None = 60.0,
    token: str | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    retry: Retry | Literal["grpc"] | None = None,
    progress: bool | None = None,
    shared_memory: bool = True,
    data_connections: bool = True,
) -> Client:
    """Returns a client. It connects at the first call, and again whenever the connection is lost.

    Args:
        target: ``host:port``, ``unix:/path``, or another target of gRPC.
        timeout: seconds that a call may take, with all its attempts, greater than 0. Transfers get a
            second more for each 10 MB. None or inf for no limit, here and wherever a time-out is
            given; elsewhere None selects this one.
        token: bearer token to send with every call.
        credentials: TLS, as from `optserve.tls.credentials`; None for a plain connection.
        retry: when and how often a call is repeated after UNAVAILABLE; until its deadline when None.
            ``"grpc"`` leaves it to gRPC, which repeats only reads and tries them up to three times,
            as ``optserve/service_config.json`` says.
        progress: whether long transfers show a bar. None shows one when standard error is a
            terminal and tqdm is installed.
        shared_memory: whether large steps use shared memory if the server is on this host and runs as
            the same user. If that fails, they are sent, and the log has the reason.
        data_connections: whether the steps of a stream use a TCP connection beside gRPC, if there is no
            TLS and the server offers one. If that fails, they use gRPC, and the log has the reason.

    Raises:
        ValueError, TypeError: an argument is wrong, such as a time-out of 0; the message names it.
    """
    target, timeout = coercion.to_server_address(target, "target"), coercion.to_seconds(timeout, "timeout")
    token = coercion.to_optional(coercion.to_string, token, "token")
    if retry not in (None, "grpc") and not isinstance(retry, Retry):
        raise TypeError(coercion.error_text("retry", retry, 'a Retry, "grpc" or None'))
    own, by_grpc = (Retry(attempts=1), True) if retry == "grpc" else (retry or Retry(), False)
    connection = Connection(
        target, timeout, token, credentials, own, progress, shared_memory, by_grpc, data_connections
    )
    return Client(connection)


class Client:
    """A client of one server, which `connect` returns. Several threads may use it.

    Args:
        connection: to the server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create_session(
        self,
        parameters: Mapping[str, ArrayLike | Initialized] | Iterable[tuple[str, ArrayLike | Initialized]],
        optimizer: AnyOptimizer,
        *,
        session_id: str = "",
        schedule: Schedule | None = None,
        gradient: Gradient | None = None,
        weight_average: WeightAverage | None = None,
        decoupled_weight_decay: float | None = None,
        groups: Iterable[ParameterGroup] = (),
        reduce_on_plateau: ReduceOnPlateau | None = None,
        early_stopping: EarlyStopping | None = None,
        lease: Lease | None = None,
        durability: Durability | None = None,
        step_counting: StepCounting | None = None,
        coordination: Coordination | None = None,
        data_plan: DataPlan | None = None,
        seed: int = 0,
        timeout: float | None = None,
        progress: bool | None = None,
    ) -> SessionHandle:
        """Creates a session.

        Args:
            parameters: by name, or as (name, value) pairs: arrays of float32 or float64, or `Initialized`.
                Arrays of more than 1 MiB in total are uploaded in chunks after the session is created;
                if that fails, the session is deleted.
            optimizer: the optimizer, as ``optserve.optimizers.Adam(learning_rate=1e-3)``, or the name
                of one, as ``"adam"``.
            session_id: last part of the session's name; chosen by the server when empty.
            schedule: learning rate by step; replaces the optimizer's own.
            gradient: gradient preprocessing, before the optimizer.
            weight_average: a moving average of the weights, stored in addition to them.
            decoupled_weight_decay: p -= lr*decay*p before each step.
            groups: parameter groups: tensors with their own settings.
            reduce_on_plateau: lowers the learning rate when a reported metric stops improving.
            early_stopping: ends training when a reported metric stops improving.
            lease: what happens to the session when it is not used; the server's own when None.
            durability: what a crash of the server cannot lose; the server's default when None.
            step_counting: which steps a rule counts for a tensor that has no gradient in some of them;
                the convention's when None.
            coordination: how the steps of several workers are combined; see `SessionHandle.join`.
            data_plan: the data that the workers share out among themselves; see `Member.shards`.
            seed: seed of the initializers.
            timeout: seconds for each call; the client's default, lengthened for uploads, when None.
            progress: whether an upload shows a bar; the client's default when None.

        Raises:
            InvalidArgument: a specification or a parameter is wrong.
            AlreadyExists: there is a session of that id.
            TypeError: a parameter is neither float32 nor float64, or an argument has the wrong type.
            ValueError: an argument has a value that is not allowed; the message names both.
            OptserveError: another error of the server, or it could not be reached.
        """
        given = coercion.require_string_keys(coercion.to_mapping(parameters, "parameters"), "parameters")
        wanted = SessionSpec(
            Optimizer.of(optimizer, "optimizer"),
            schedule=schedule,
            gradient=gradient,
            weight_average=weight_average,
            decoupled_weight_decay=decoupled_weight_decay,
            groups=coercion.to_tuple(groups, "groups", ParameterGroup.of),
            reduce_on_plateau=reduce_on_plateau,
            early_stopping=early_stopping,
            lease=lease,
            durability=durability,
            step_counting=step_counting,
            coordination=coordination,
            data_plan=data_plan,
        )
        arrays = {
            name: to_parameter_array(name, v) for name, v in given.items() if not isinstance(v, Initialized)
        }
        upload = sum(array.nbytes for array in arrays.values()) > INLINE_BYTES
        request = wire.CreateSessionRequest(
            request_id=uuid.uuid4().hex,
            session_id=coercion.to_string(session_id, "session_id"),
            spec=spec.encode_spec(wanted),
            parameters=[
                encode_parameter(name, arrays.get(name, value), upload) for name, value in given.items()
            ],
            seed=coercion.to_int(seed, "seed"),
        )
        response = self._connection.call(self._connection.sessions.CreateSession, request, timeout)
        handle = SessionHandle(self._connection, SessionInfo.from_message(response.session))
        if upload:
            self._upload_parameters(handle, arrays, timeout, progress)
        return handle

    def session(
        self,
        name: str | SessionHandle | SessionInfo,
        *,
        worker: str | None = None,
        timeout: float | None = None,
    ) -> SessionHandle:
        """Returns a handle of an existing session.

        Args:
            name: resource name ``sessions/{id}``, the id alone, or a handle or description of the session.
            worker: name under which the handle numbers its steps; a random one when None. A name that has
                taken steps continues after the last one that was applied, as a restarted program does.
                Two handles must not use one name at the same time.
            timeout: seconds in all; the client's default when None.

        Raises:
            NotFound: there is no such session.
        """
        worker = coercion.to_optional(coercion.to_string, worker, "worker")
        request = wire.GetSessionRequest(name=coercion.to_session_name(name), worker=worker or "")
        response = self._connection.call(self._connection.sessions.GetSession, request, timeout)
        numbered = Membership(worker, 0, response.next_sequence) if worker else None
        return SessionHandle(self._connection, SessionInfo.from_message(response.session), numbered)

    def import_session(
        self,
        place: FileLike,
        *,
        session_id: str = "",
        timeout: float | None = None,
        progress: bool | None = None,
    ) -> SessionHandle:
        """Creates a session from a file that ``session.snapshots.export`` wrote, on any server.

        Args:
            place: a path, a file opened for bytes, or a URL that fsspec knows (extra ``fsspec``).
            session_id: last part of the session's name; chosen by the server when empty.
            timeout: seconds in all; the client's default, lengthened for large files, when None.
            progress: whether a bar is shown; the client's default when None.

        Raises:
            InvalidArgument: the file is not a complete snapshot.
            AlreadyExists: there is a session of that id.
            OSError: the place cannot be read.
        """
        wanted = coercion.to_string(session_id, "session_id")
        info = import_session(self._connection, place, wanted, timeout, progress)
        return SessionHandle(self._connection, info)

    def sessions(self, *, page_size: int = 0, timeout: float | None = None) -> Iterator[SessionInfo]:
        """Yields the server's sessions in the order of their names.

        Args:
            page_size: number of sessions for each request; the server's default when 0.
            timeout: seconds for each page; the client's default when None.
        """
        token, size = "", coercion.to_int(page_size, "page_size", bits=32)
        while True:
            request = wire.ListSessionsRequest(page_size=size, page_token=token)
            page = self._connection.call(self._connection.sessions.ListSessions, request, timeout)
            yield from (SessionInfo.from_message(session) for session in page.sessions)
            token = page.next_page_token
            if not token:
                return

    def capabilities(self, *, timeout: float | None = None) -> Capabilities:
        """Returns what the server can do."""
        request = capabilities_service_pb2.GetCapabilitiesRequest()
        return Capabilities.from_message(
            self._connection.call(self._connection.capabilities.GetCapabilities, request, timeout)
        )

    def health(self, service: str = "", *, timeout: float | None = None) -> bool:
        """Whether the server, or one of its services, accepts calls.

        Raises:
            Unavailable: the server could not be reached.
            NotFound: it has no such service.
        """
        request = health_pb2.HealthCheckRequest(service=coercion.to_string(service, "service"))
        status = self._connection.call(self._connection.health.Check, request, timeout).status
        return bool(status == health_pb2.HealthCheckResponse.SERVING)

    def evaluate_schedule(
        self, schedule: Schedule, steps: int | range | Iterable[int], *, timeout: float | None = None
    ) -> NDArray[np.float64]:
        """Computes the learning rates of steps.

        Args:
            schedule: the schedule.
            steps: whole numbers, one or many, in any order; the first update is step 0.
            timeout: seconds in all; the client's default when None.

        Returns:
            The rates, float64, in the order of the steps.

        Raises:
            InvalidArgument: the schedule or a step is wrong.
            ValueError: a step has a fraction.
        """
        request = function_service_pb2.EvaluateScheduleRequest(
            schedule=spec.encode_spec(Schedule.of(schedule, "schedule"))
        )
        if isinstance(steps, range) and steps.step > 0 and len(steps):
            request.range.start, request.range.stop, request.range.stride = (
                steps.start,
                steps.stop,
                steps.step,
            )
        else:
            request.steps.steps.extend(coercion.to_tuple(steps, "steps", coercion.to_int))
            request.steps.SetInParent()
        response = self._connection.call(self._connection.functions.EvaluateSchedule, request, timeout)
        return dtypes.from_tensor(response.values)

    def loss(
        self,
        loss: AnyLoss,
        prediction: ArrayLike,
        target: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        gradient: bool = True,
        per_example: bool = False,
        timeout: float | None = None,
    ) -> LossValue:
        """Computes a loss.

        Args:
            loss: the loss, as ``optserve.losses.CategoricalCrossentropy(from_logits=True)``, or its name.
            prediction: float32 or float64.
            target: of the prediction's type and shape; class indices (int32 or int64) for sparse losses.
            sample_weight: a factor for each example, of the prediction's type; 1 each when None.
            gradient: whether to compute the gradient with respect to the prediction.
            per_example: whether to return the loss of each example.
            timeout: seconds in all; the client's default when None.
        """
        request = function_service_pb2.ComputeLossRequest(
            loss=spec.encode_spec(Loss.of(loss, "loss")),
            prediction=encode_tensor(prediction, "prediction"),
            target=encode_tensor(target, "target"),
            sample_weight=optional_tensor(sample_weight, "sample_weight"),
            gradient=gradient,
            per_example=per_example,
        )
        return LossValue(self._connection.call(self._connection.functions.ComputeLoss, request, timeout))

    def activation(
        self,
        activation: AnyActivation,
        x: ArrayLike,
        *,
        slope: ArrayLike | None = None,
        timeout: float | None = None,
    ) -> Array:
        """Computes an activation of a float32 or float64 array.

        The output has the type and shape of the input; only maxout shortens an axis.

        Args:
            activation: the activation, or its name, as ``"relu"``.
            x: its input.
            slope: the slope of PReLU, of the type of ``x``; it broadcasts to ``x``.
            timeout: seconds in all; the client's default when None.
        """
        request = function_service_pb2.ComputeActivationRequest(
            activation=spec.encode_spec(Activation.of(activation, "activation")),
            input=encode_tensor(x, "x"),
            slope=optional_tensor(slope, "slope"),
        )
        response = self._connection.call(self._connection.functions.ComputeActivation, request, timeout)
        return dtypes.from_tensor(response.output)

    @overload
    def activation_gradient(
        self, activation: AnyActivation, x: ArrayLike, dy: ArrayLike, *, timeout: float | None = None
    ) -> Array: ...

    @overload
    def activation_gradient(
        self,
        activation: AnyActivation,
        x: ArrayLike,
        dy: ArrayLike,
        *,
        slope: ArrayLike,
        timeout: float | None = None,
    ) -> tuple[Array, Array]: ...

    def activation_gradient(
        self,
        activation: AnyActivation,
        x: ArrayLike,
        dy: ArrayLike,
        *,
        slope: ArrayLike | None = None,
        timeout: float | None = None,
    ) -> Array | tuple[Array, Array]:
        """Computes the gradient with respect to ``x`` from ``dy``, the gradient with respect to the output.

        It has the type and shape of ``x``. With a ``slope``, as in `activation`, the gradient with
        respect to the slope is returned second.
        """
        request = function_service_pb2.ComputeActivationGradientRequest(
            activation=spec.encode_spec(Activation.of(activation, "activation")),
            input=encode_tensor(x, "x"),
            output_gradient=encode_tensor(dy, "dy"),
            slope=optional_tensor(slope, "slope"),
        )
        compute = self._connection.functions.ComputeActivationGradient
        response = self._connection.call(compute, request, timeout)
        dx = dtypes.from_tensor(response.input_gradient)
        return dx if slope is None else (dx, dtypes.from_tensor(response.slope_gradient))

    def estimate_complexity(
        self,
        network: Network,
        *,
        batch_size: int = 1,
        dtype: DTypeLike = np.float32,
        optimizer: AnyOptimizer | None = None,
        timeout: float | None = None,
    ) -> NetworkComplexity:
        """Computes the operations and the memory of a network, layer by layer.

        Args:
            network: ``optserve.layers.Network`` of the layers in ``optserve.layers``.
            batch_size: examples in one batch.
            dtype: of parameters, outputs and optimizer state; float16, bfloat16, float32 or float64.
            optimizer: the optimizer whose state is counted as well.
            timeout: seconds in all; the client's default when None.

        Raises:
            InvalidArgument: a layer is wrong or does not match its input; ``error.field`` names it, as in
                ``network.layers[2].convolution.kernel``.
            TypeError: the dtype is not one of these.
        """
        request = function_service_pb2.EstimateComplexityRequest(
            network=spec.encode_spec(Network.of(network, "network")),
            batch_size=coercion.to_int(batch_size, "batch_size"),
            dtype=dtypes.TYPES[dtypes.check_dtype(dtype, dtypes.WIRE_DTYPES, "dtype")],
            optimizer=None if optimizer is None else spec.encode_spec(Optimizer.of(optimizer, "optimizer")),
        )
        response = self._connection.call(self._connection.functions.EstimateComplexity, request, timeout)
        return NetworkComplexity.from_message(response)

    def close(self) -> None:
        """Closes the connection; sessions remain on the server."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _upload_parameters(
        self, handle: SessionHandle, arrays: Mapping[str, Array], timeout: float | None, progress: bool | None
    ) -> None:
        """Uploads the parameters of a session; deletes the session if that fails."""
        try:
            handle.push(arrays, timeout=timeout, progress=progress)
        except BaseException:
            with contextlib.suppress(errors.OptserveError):  # the first error is raised
                handle.delete()
            raise
