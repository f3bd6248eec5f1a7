"""The headers of streamed steps, checked against their sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import within
from optserve_server.rpc.sharing import Sharing
from optserve_server.sessions.arriving import NamedIndices
from optserve_server.sessions.reading import Pull
from optserve_server.sessions.regions import Region
from optserve_server.sessions.result import StepOptions
from optserve_server.sessions.session import Session
from optserve_server.sessions.staging import laid_out
from optserve_server.wire import sessions
from optserve_server.wire.tensors import wire_dtype_from


@dataclass(frozen=True)
class Header:
    """What the headers of equal steps say, checked against their session.

    Attributes:
        session: the session.
        tensors: names of the tensors whose gradient follows; None for all.
        dtype: element type of their bytes; None for each tensor's own.
        rows: some rows of other tensors, whose gradients follow.
        options: what a step asks for, but for what is `_Differing`.
        pull: the values to send back; None for none.
        in_place: whether their bytes lie as the gradient's do.
        region: the shared memory that the gradient lies in; None where its bytes follow.
    """

    session: Session
    tensors: tuple[str, ...] | None
    dtype: np.dtype[Any] | None
    rows: tuple[NamedIndices, ...]
    options: StepOptions
    pull: Pull | None
    in_place: bool
    region: Region | None


class Headers:
    """Reads headers. Those of a loop differ in little, so only what differs is read again.

    Args:
        find: gives the session of a resource name.
        sharing: memory that steps may lie in.
    """

    def __init__(self, find: Callable[[str], Session], sharing: Sharing) -> None:
        self._find, self._sharing = find, sharing
        self._name = ""
        self._rest = b""
        self._spec: object = None
        self._last: Header | None = None

    def forget(self) -> None:
        """Reads the next header in full; only the session's name is remembered."""
        self._last, self._spec = None, None

    def read(self, message: pb.StepHeader) -> tuple[Header, StepOptions]:
        """What a header says, and what its step asks for.

        Raises:
            DomainError: a field of it is wrong; fields are paths within the header.
        """
        last, differing = self._last, _Differing.taken_from(message)
        rest = message.SerializeToString()
        message.gradient_id = differing.gradient_id
        if last is None or rest != self._rest or last.session.closed or last.session.spec is not self._spec:
            last = self._last = self._checked(message, differing)
            self._rest, self._spec = rest, last.session.spec
        elif last.region is not None:
            self._sharing.region_of(last.session, message)
        return last, differing.put_into(last.options)

    def _checked(self, message: pb.StepHeader, differing: _Differing) -> Header:
        self._name = message.name or self._name
        session = self._find(self._name)
        options = sessions.options_from(message.options, differing.sequence)
        region = self._sharing.region_of(session, message)
        dtype = wire_dtype_from(message.gradient_dtype, "gradient_dtype")
        tensors = tuple(message.tensors) or None
        rows = tuple(sessions.row_indices_from(message.sparse_gradients))
        pull, in_place = None, False
        if message.options.HasField("pull"):
            with within("options.pull"):
                pull = sessions.pull_from(message.options.pull)
                lies = session.check_pull(pull)
            in_place = not rows and region is None and lies == laid_out(session.layout, tensors, dtype)
        return Header(session, tensors, dtype, rows, options, pull, in_place, region)


class _Differing(NamedTuple):
    """The fields of a header that are other ones in every step."""

    sequence: int
    expected_step: int | None
    gradient_id: int

    @classmethod
    def taken_from(cls, message: pb.StepHeader) -> Self:
        """Empties these fields of a message."""
        options = message.options
        expected = options.expected_step if options.HasField("expected_step") else None
        taken = cls(options.sequence, expected, message.gradient_id)
        options.ClearField("sequence")
        options.ClearField("expected_step")
        message.ClearField("gradient_id")
        return taken

    def put_into(self, options: StepOptions) -> StepOptions:
        """Options with these fields."""
        return StepOptions(
            options.worker,
            self.sequence,
            self.expected_step,
            options.loss_scale,
            options.validate_only,
            options.per_tensor_norms,
            self.gradient_id,
        )
