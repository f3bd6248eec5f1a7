"""Calls that read and write the parameters of a session."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from numpy.typing import ArrayLike, DTypeLike

from optserve import coercion, errors
from optserve._codec import receive_buffers
from optserve._codec.byte_layout import ByteLayout
from optserve._codec.caller_arrays import check_caller_arrays
from optserve._codec.dtypes import Array
from optserve._codec.framing import Framed, Framing
from optserve._codec.layout import Layout
from optserve._codec.payload import Payload, encode_pieces
from optserve._codec.receive_buffers import Into, ReceiveBuffers
from optserve._transport.base_connection import BaseConnection
from optserve._transport.call import Download, Upload
from optserve._transport.retry import transfer_timeout
from optserve.parameters import Parameters, Pull
from optserve.progress import Bar, ProgressOption, Silent, make_progress_bar
from optserve.session_info import SessionInfo
from optserve.spec import member_or_none
from optserve.specs.enums import ParameterPoint
from optserve.v1 import session_service_pb2 as wire

PUSHES = Framing(wire.PushParametersRequest)


class PullReception:
    """One answer to PullParameters, message by message. See `Reception`.

    Args:
        buffers: receive the parameters.
        into: the caller's arrays; new ones when None.
        progress: whether a bar is shown; None lets the transfer decide.
    """

    def __init__(self, buffers: ReceiveBuffers, into: Into, progress: ProgressOption) -> None:
        self._buffers, self._into, self._progress = buffers, into, progress
        self._header: wire.ParametersHeader | None = None
        self._bar: Bar = Silent()
        self._exits = contextlib.ExitStack()

    def accept(self, message: Framed[wire.PullParametersResponse]) -> Parameters | None:
        """Takes the next message; returns the parameters when they are complete.

        Raises:
            Internal: the chunks do not fit together.
        """
        try:
            if self._header is None:
                self._header = message.message.header
                self._reception = self._begin(self._header)
            if message.chunk is not None:
                self._bar.update(self._reception.add_chunk(message.chunk))
        except ValueError as error:
            raise errors.Internal(str(error)) from error
        if not self._reception.is_complete:
            return None
        return Parameters(
            self._reception.complete_arrays(),
            step=self._header.step,
            point=member_or_none(ParameterPoint, self._header.point),
            modified=not self._header.not_modified,
        )

    def _begin(self, header: wire.ParametersHeader) -> receive_buffers.Reception:
        bar = make_progress_bar("pull", header.byte_count, self._progress)
        self._bar = self._exits.enter_context(bar)
        return self._buffers.begin_reception(ByteLayout(header.layout, header.byte_count), self._into)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()


def make_pull(
    settings: BaseConnection,
    session: str,
    layout: Layout,
    pull: Pull,
    *,
    if_newer_than_step: int | None = None,
    newer_than_step: int | None = None,
    into: Mapping[str, Array] | None = None,
    timeout: float | None = None,
    buffers: ReceiveBuffers | None = None,
) -> Download[Parameters]:
    """Returns the call that reads parameters.

    Args:
        settings: of the connection.
        session: resource name of the session.
        layout: of the session.
        pull: which parameters.
        if_newer_than_step: as of `SessionHandle.pull`.
        newer_than_step: the same.
        into: the same.
        timeout: the same.
        buffers: receive the parameters; new ones when None.

    Raises:
        InvalidArgument, TypeError, ValueError: an argument is wrong.
    """
    if into is not None:
        into = coercion.to_mapping(into, "into")
        check_caller_arrays(into, layout.select(pull.tensors))
    request = wire.PullParametersRequest(name=session, pull=pull.message(layout))
    if if_newer_than_step is not None:
        request.if_newer_than_step = coercion.to_int(if_newer_than_step, "if_newer_than_step")
    if newer_than_step is not None:
        request.newer_than_step = coercion.to_int(newer_than_step, "newer_than_step")
    if timeout is None:
        timeout = transfer_timeout(settings.timeout, pull.byte_count(layout))
    kept = buffers or ReceiveBuffers()
    return Download(
        lambda stubs: stubs.streams.pull,
        request,
        lambda: PullReception(kept, into, settings.progress),
        lambda values: values,
        timeout,
    )


def make_push(
    settings: BaseConnection,
    session: str,
    layout: Layout,
    values: Mapping[str, ArrayLike] | Iterable[tuple[str, ArrayLike]],
    *,
    expected_step: int | None = None,
    reset_state: bool = False,
    wire_dtype: DTypeLike | None = None,
    progress: ProgressOption = None,
) -> Upload[SessionInfo]:
    """Returns the call that writes parameters, with a new request id; arguments as of `SessionHandle.push`.

    Raises:
        InvalidArgument, TypeError, ValueError: an argument is wrong, or no parameter is given.
    """
    given = coercion.to_mapping(values, "values")
    payload = Payload.from_arrays(layout, given, "values", wire_dtype).convert_to_one_dtype()
    header = wire.PushHeader(name=session, reset_state=reset_state)
    if expected_step is not None:
        header.expected_step = coercion.to_step(expected_step, "expected_step")
    if not payload.arrays:
        raise ValueError("no parameter is given")
    header.request_id = uuid.uuid4().hex
    header.tensors.extend(payload.header_names)
    header.wire_dtype = payload.data_type
    header.byte_count = payload.byte_count
    shows = settings.progress if progress is None else progress

    def messages() -> Generator[bytes, None, None]:
        with make_progress_bar("upload", payload.byte_count, shows) as shown:
            head = wire.PushParametersRequest(header=header).SerializeToString()
            pieces: Iterable[Any] = encode_pieces(
                PUSHES, head, payload.arrays, payload.byte_count, shown.update
            )
            yield from map(b"".join, pieces)

    def decode(answer: wire.PushParametersResponse) -> SessionInfo:
        return SessionInfo.from_message(answer.session)

    return Upload(lambda stubs: stubs.streams.push, messages, decode, payload.byte_count)
