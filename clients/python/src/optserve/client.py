"""The client: sessions and functions of one server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Literal, Self, overload

import grpc
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from optserve import coercion, errors
from optserve._codec.dtypes import Array
from optserve._engine.step_protocol import Membership
from optserve._transport.call import Call
from optserve._transport.connection import Connection
from optserve._transport.retry import Retry
from optserve.base_session import BaseSessionHandle
from optserve.capabilities import Capabilities
from optserve.complexity import AnyOptimizer, NetworkComplexity
from optserve.file_access import FileLike
from optserve.function_calls import (
    AnyActivation,
    AnyLoss,
    LossValue,
    make_activation,
    make_activation_gradient,
    make_complexity_estimate,
    make_loss,
    make_schedule_evaluation,
)
from optserve.progress import ProgressOption
from optserve.session import SessionHandle
from optserve.session_calls import (
    AnyParameters,
    Creation,
    make_creation,
    make_get_capabilities,
    make_get_worker,
    make_health_check,
    make_list,
)
from optserve.session_info import SessionInfo
from optserve.snapshots import import_session
from optserve.specs.enums import StepCounting
from optserve.specs.layers import Network
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


def connect(
    target: str,
    *,
    timeout: float | None = 60.0,
    token: str | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    retry: Retry | Literal["grpc"] | None = None,
    progress: ProgressOption = None,
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
        progress: whether transfers show a bar, or a function that makes one of a text and a byte count.
            None shows one for transfers of 32 MiB and more in a notebook, or when standard error is a
            terminal, if tqdm is installed.
        shared_memory: whether large steps use shared memory if the server is on this host and runs as
            the same user. If that fails, they are sent, and the log has the reason.
        data_connections: whether the steps of a stream use a TCP connection beside gRPC, if there is no
            TLS and the server offers one. If that fails, they use gRPC, and the log has the reason.

    Raises:
        ValueError, TypeError: an argument is wrong, such as a time-out of 0; the message names it.
    """
    return Client(
        Connection(target, timeout, token, credentials, retry, progress, shared_memory, data_connections)
    )


class Client:
    """A client of one server, which `connect` returns. Several threads may use it.

    Args:
        connection: to the server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create_session(
        self,
        parameters: AnyParameters,
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
        progress: ProgressOption = None,
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
        return self._create_session(make_creation(parameters, wanted, session_id, seed), timeout, progress)

    def session(
        self,
        name: str | BaseSessionHandle | SessionInfo,
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
        return self._open_session(make_get_worker(coercion.to_session_name(name), worker), timeout)

    def import_session(
        self,
        place: FileLike,
        *,
        session_id: str = "",
        timeout: float | None = None,
        progress: ProgressOption = None,
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
        info = import_session(self._connection, place, session_id, timeout, progress)
        return SessionHandle(self._connection, info)

    def sessions(self, *, page_size: int = 0, timeout: float | None = None) -> Iterator[SessionInfo]:
        """Yields the server's sessions in the order of their names.

        Args:
            page_size: number of sessions for each request; the server's default when 0.
            timeout: seconds for each page; the client's default when None.
        """
        token = ""
        while True:
            page, token = self._connection.call(make_list(page_size, token), timeout)
            yield from page
            if not token:
                return

    def capabilities(self, *, timeout: float | None = None) -> Capabilities:
        """Returns what the server can do."""
        return self._connection.call(make_get_capabilities(), timeout)

    def health(self, service: str = "", *, timeout: float | None = None) -> bool:
        """Whether the server, or one of its services, accepts calls.

        Raises:
            Unavailable: the server could not be reached.
            NotFound: it has no such service.
        """
        return self._connection.call(make_health_check(service), timeout)

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
        return self._connection.call(make_schedule_evaluation(schedule, steps), timeout)

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
        call = make_loss(loss, prediction, target, sample_weight, gradient, per_example)
        return self._connection.call(call, timeout)

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
        return self._connection.call(make_activation(activation, x, slope), timeout)

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
        return self._connection.call(make_activation_gradient(activation, x, dy, slope), timeout)

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
        call = make_complexity_estimate(network, batch_size, dtype, optimizer)
        return self._connection.call(call, timeout)

    def close(self) -> None:
        """Closes the connection; sessions remain on the server."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _create_session(
        self, creation: Creation, timeout: float | None, progress: ProgressOption
    ) -> SessionHandle:
        """Creates a session and uploads its parameters; deletes the session if that fails."""
        handle = SessionHandle(self._connection, self._connection.call(creation.call, timeout))
        if creation.upload:
            try:
                handle.push(creation.upload, timeout=timeout, progress=progress)
            except BaseException:
                with contextlib.suppress(errors.OptserveError):  # the first error is raised
                    handle.delete()
                raise
        return handle

    def _open_session(
        self, get: Call[tuple[SessionInfo, Membership | None]], timeout: float | None
    ) -> SessionHandle:
        return SessionHandle(self._connection, *self._connection.call(get, timeout))
