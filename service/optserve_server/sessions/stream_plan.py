"""What the steps of one stream have in common, and the buffers that they use in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optserve_server.errors import DomainError, Reason, within
from optserve_server.sessions.arriving import Arriving, NamedIndices
from optserve_server.sessions.reading import Pull, Reply
from optserve_server.sessions.regions import Region
from optserve_server.sessions.session import Session
from optserve_server.sessions.sparse import check_has_rows
from optserve_server.sessions.staging import StagedTensor, Staging, check_names, laid_out


class Sender(Protocol):
    """Sends answers, possibly while the next step is received."""

    @property
    def busy(self) -> bool:
        """Whether the last answer's buffer is still in use."""


class StreamPlan:
    """A plan, checked against its session.

    Args:
        session: the session.
        worker: name of the sender; empty for none.
        tensors: names of the tensors whose gradients are sent whole; None for all.
        sparse_tensors: names of those of which each step sends some rows.
        dtype: element type of the gradients' bytes; None for each tensor's own.
        pull: the parameters that follow each result; None for none.
        region: the shared memory that gradients and parameters are in; None if they are sent.
        per_tensor_norms: whether each result has the norm of each tensor.

    Attributes:
        spec: the session's specification when the plan was made.
        gradients: how whole gradients are laid out in a step's bytes.
        byte_count: how many bytes of whole gradients a step has.
        parameters: how the parameters are laid out in an answer's bytes; None if none are sent.

    Raises:
        DomainError: SESSION_NOT_FOUND, PARAMETERS_PENDING, UNKNOWN_TENSOR, DUPLICATE_TENSOR,
            SHAPE_MISMATCH or POINT_UNAVAILABLE; fields are paths within the plan.
    """

    def __init__(
        self,
        session: Session,
        *,
        worker: str = "",
        tensors: tuple[str, ...] | None = None,
        sparse_tensors: tuple[str, ...] = (),
        dtype: np.dtype[Any] | None = None,
        pull: Pull | None = None,
        region: Region | None = None,
        per_tensor_norms: bool = False,
    ) -> None:
        session.check_ready()
        self.session, self.spec = session, session.spec
        self.worker, self.per_tensor_norms = worker, per_tensor_norms
        self.tensors, self.sparse_tensors, self.dtype = tensors, sparse_tensors, dtype
        self.pull, self.region = pull, region
        self.gradients: tuple[StagedTensor, ...] = ()
        self.parameters: tuple[StagedTensor, ...] | None = None
        if pull is not None:
            with within("pull"):
                self.parameters = session.check_pull(pull)
        if region is None:
            self.gradients = laid_out(session.layout, tensors, dtype)
        else:
            self.parameters = None
        if sparse_tensors:
            fields = [f"sparse_tensors[{index}]" for index in range(len(sparse_tensors))]
            whole = [f"tensors[{index}]" for index in range(len(tensors or ()))]
            check_names(session.layout, [*(tensors or ()), *sparse_tensors], [*whole, *fields])
            for name, field in zip(sparse_tensors, fields, strict=True):
                check_has_rows(session.layout[name], field)
        self.byte_count = sum(tensor.byte_count for tensor in self.gradients)
        self._in_place = not sparse_tensors and self.parameters == self.gradients
        self._stagings: list[Staging] = []
        self._used = 0
        self._values: Staging | None = None

    @property
    def is_current(self) -> bool:
        """Whether the session is still there, and is what it was when the plan was made."""
        return self.spec is self.session.spec and not self.session.closed

    @property
    def writes_in_place(self) -> bool:
        """Whether the parameters are laid out as the gradient is, and take its place."""
        return self._in_place

    def staging(self, answers: Sender) -> Staging:
        """Where the gradient of a step of whole tensors goes.

        Args:
            answers: sends the answers, the last one possibly out of the last buffer.
        """
        if self.region is not None:
            return self.region.staging
        if self._in_place and answers.busy:
            self._used = 1 - self._used
        while len(self._stagings) <= self._used:
            self._stagings.append(self.session.stage(self.tensors, self.dtype))
        return self._stagings[self._used]

    def rows(self, indices: Sequence[npt.NDArray[Any]], announced: int) -> Arriving:
        """Where the gradient of a step with sparse rows goes.

        Args:
            indices: the rows (int32 or int64, [k]) of each sparse tensor, in the plan's order.
            announced: how many bytes follow.

        Raises:
            DomainError: OUT_OF_RANGE for an index, BYTE_LENGTH_MISMATCH.
        """
        named = list(map(NamedIndices, self.sparse_tensors, indices))
        arriving = self.session.stage_rows(self.tensors or (), named, self.dtype)
        if announced != arriving.buffer.size:
            raise wrong_byte_count(announced, arriving.buffer.size)
        return arriving

    def reply(self, gradient: Staging) -> Reply | None:
        """Where the parameters of an answer go: over the gradient if they are laid out alike."""
        if self.pull is None or self.region is not None:
            return None
        if self._in_place:
            return Reply(self.pull.point, gradient)
        if self._values is None:
            self._values = self.session.stage(self.pull.tensors, self.pull.dtype)
        return Reply(self.pull.point, self._values)


def wrong_byte_count(announced: int, expected: int) -> DomainError:
    """The error of a step or a push that announces a wrong length."""
    return DomainError(
        Reason.BYTE_LENGTH_MISMATCH,
        f"byte_count is {announced}, but the tensors have {expected} bytes",
        field="byte_count",
        metadata={"expected": expected, "actual": announced},
    )
