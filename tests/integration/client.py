"""Generated stubs with helpers that build requests and read answers and errors."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import ml_dtypes
import numpy as np
import numpy.typing as npt
from google.rpc import error_details_pb2, status_pb2

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve.v1.capabilities_service_pb2_grpc import CapabilitiesServiceStub
from optserve.v1.function_service_pb2_grpc import FunctionServiceStub
from optserve.v1.session_pb2 import Session, SessionSpec
from optserve.v1.session_service_pb2_grpc import SessionServiceStub

NUMBERS = {
    np.dtype(np.float16): tensor_pb2.DATA_TYPE_FLOAT16,
    np.dtype(ml_dtypes.bfloat16): tensor_pb2.DATA_TYPE_BFLOAT16,
    np.dtype(np.float32): tensor_pb2.DATA_TYPE_FLOAT32,
    np.dtype(np.float64): tensor_pb2.DATA_TYPE_FLOAT64,
    np.dtype(np.int32): tensor_pb2.DATA_TYPE_INT32,
    np.dtype(np.int64): tensor_pb2.DATA_TYPE_INT64,
}
DTYPES = {number: dtype for dtype, number in NUMBERS.items()}

Array = npt.NDArray[Any]


@dataclass
class Refusal:
    """A status with its details; ``applied`` is kept apart from the other metadata."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    applied: str = ""
    fields: list[str] = field(default_factory=list)
    retry_seconds: float | None = None


def tensor(array: Array) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=NUMBERS[array.dtype], shape=array.shape, data=array.tobytes())


def array(message: tensor_pb2.Tensor) -> Array:
    return np.frombuffer(message.data, DTYPES[message.dtype]).reshape(tuple(message.shape))


def name_arrays(arrays: Mapping[str, Array]) -> list[tensor_pb2.NamedTensor]:
    return [tensor_pb2.NamedTensor(name=name, tensor=tensor(value)) for name, value in arrays.items()]


def rows(name: str, indices: Array, values: Array) -> tensor_pb2.SparseRows:
    return tensor_pb2.SparseRows(name=name, indices=tensor(indices), values=tensor(values))


def sgd(rate: float = 0.5) -> SessionSpec:
    spec = SessionSpec()
    spec.optimizer.sgd.learning_rate = rate
    return spec


def plan_message(name: str, **fields: Any) -> pb.StepStreamRequest:
    """The message that begins a stream on a session; fields as of `StepPlan`."""
    return pb.StepStreamRequest(plan=pb.StepPlan(session=name, **fields))


def step_messages(data: bytes, chunk: int = 1 << 20, **fields: Any) -> Iterator[pb.StepStreamRequest]:
    """The messages of one step of a stream: its beginning, with fields as of `StepStart`, and its chunks."""
    yield pb.StepStreamRequest(step=pb.StepStart(**{"byte_count": len(data), **fields}))
    for start in range(0, len(data), chunk):
        yield chunk_message(start, data[start : start + chunk])


def chunk_message(start: int, data: bytes) -> pb.StepStreamRequest:
    """A message with nothing but a chunk."""
    return pb.StepStreamRequest(chunk=tensor_pb2.Chunk(byte_offset=start, data=data))


def refusal(error: grpc.RpcError) -> Refusal:
    found = Refusal(error.code(), error.details())
    metadata: Any = error.trailing_metadata()
    for key, value in metadata or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            _read(detail, found)
    return found


def _read(detail: Any, found: Refusal) -> None:
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    if detail.Unpack(info):
        found.reason, found.domain, found.metadata = info.reason, info.domain, dict(info.metadata)
        found.applied = found.metadata.pop("applied", "")
    elif detail.Unpack(bad):
        found.fields = [violation.field for violation in bad.field_violations]
    elif detail.Unpack(retry):
        found.retry_seconds = retry.retry_delay.ToTimedelta().total_seconds()


_APPLIED = {"": {""}, "INTERNAL": {"unknown"}} | {
    reason: {"no", "unknown"} for reason in ("UNAUTHENTICATED", "STREAM_IDLE", "SHUTTING_DOWN")
}
"""What errors may say of what was applied; a call that is ended from outside may have begun something."""


@contextlib.contextmanager
def expect_refusal() -> Iterator[Refusal]:
    """Expects a refusal, which is filled in when the block has ended."""
    told = Refusal(grpc.StatusCode.OK, "")
    try:
        yield told
    except grpc.RpcError as error:
        told.__dict__.update(refusal(error).__dict__)
        # Every error with a reason states whether the call was applied.
        assert told.applied in _APPLIED.get(told.reason, {"no"})
        return
    raise AssertionError("nothing was refused")


class Bearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Sends a token with every call."""

    def __init__(self, token: str) -> None:
        self._metadata = ("authorization", f"Bearer {token}")

    def _with_token(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), self._metadata]
        return continuation(details._replace(metadata=metadata), request)

    intercept_unary_unary: Any = _with_token
    intercept_unary_stream: Any = _with_token
    intercept_stream_unary: Any = _with_token
    intercept_stream_stream: Any = _with_token


class Client:
    """A channel and its stubs.

    Args:
        address: of the server.
        credentials: TLS; None for a plain connection.
        token: bearer token sent with every call.
    """

    def __init__(
        self, address: str, credentials: grpc.ChannelCredentials | None = None, token: str | None = None
    ) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        self.channel = channel if token is None else grpc.intercept_channel(channel, Bearer(token))
        self.sessions = SessionServiceStub(self.channel)
        self.functions = FunctionServiceStub(self.channel)
        self.capabilities = CapabilitiesServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def create(self, values: Mapping[str, Array], spec: SessionSpec | None = None, **fields: Any) -> Session:
        request = pb.CreateSessionRequest(spec=spec or sgd(), **fields)
        for name, value in values.items():
            request.parameters.add(name=name, value=tensor(value))
        return self.sessions.CreateSession(request, timeout=20).session

    def get(self, name: str) -> Session:
        return self.sessions.GetSession(pb.GetSessionRequest(name=name), timeout=20).session

    def step(self, name: str, gradients: Mapping[str, Array], **options: Any) -> pb.StepResponse:
        request = pb.StepRequest(
            name=name, options=pb.StepOptions(**options), gradients=name_arrays(gradients)
        )
        return self.sessions.Step(request, timeout=20)

    def exchange(self, messages: Iterable[pb.StepStreamRequest]) -> list[pb.StepStreamResponse]:
        """Every answer of a stream of these messages."""
        return list(self.sessions.StepStream(iter(messages), timeout=20))

    def stream(
        self, plan: str | pb.StepPlan, messages: Iterable[pb.StepStreamRequest]
    ) -> list[pb.StepStreamResponse]:
        """The answers to the steps of a stream.

        Args:
            plan: what the steps have in common; the session's name for nothing else.
            messages: the messages of the steps.
        """
        stated = pb.StepPlan(session=plan) if isinstance(plan, str) else plan
        planned, *answers = self.exchange(itertools.chain([pb.StepStreamRequest(plan=stated)], messages))
        assert planned.HasField("planned")
        return answers

    def pull(self, name: str, **options: Any) -> dict[str, Array]:
        request = pb.PullParametersRequest(name=name, pull=pb.PullOptions(**options))
        messages = list(self.sessions.PullParameters(request, timeout=20))
        data, header = b"".join(message.chunk.data for message in messages), messages[0].header
        assert len(data) == header.byte_count
        return unpack(header.layout, data)

    def push(self, header: pb.PushHeader, data: bytes) -> Session:
        """Pushes bytes; ``header`` may announce another number of them, for a push that is cut off."""
        stated = pb.PushHeader(byte_count=len(data))
        stated.MergeFrom(header)

        def messages() -> Iterator[pb.PushParametersRequest]:
            yield pb.PushParametersRequest(header=stated)
            for start in range(0, len(data), 1 << 20):
                piece = tensor_pb2.Chunk(byte_offset=start, data=data[start : start + (1 << 20)])
                yield pb.PushParametersRequest(chunk=piece)

        return self.sessions.PushParameters(messages(), timeout=20).session


def unpack(layout: Iterable[tensor_pb2.TensorLayout], data: bytes) -> dict[str, Array]:
    """The arrays in a sequence of bytes."""
    values = {}
    for entry in layout:
        count = int(np.prod(entry.shape, dtype=np.int64))
        flat = np.frombuffer(data, DTYPES[entry.dtype], count, entry.byte_offset)
        values[entry.name] = flat.reshape(tuple(entry.shape))
    return values
