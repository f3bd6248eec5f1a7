"""Plans: the common part of equal steps, and the buffers that they use alternately."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from optserve_server.errors import DomainError, Reason, within
from optserve_server.resources.budget import Kind
from optserve_server.shared_memory.regions import Region
from optserve_server.spec.session_spec import SparseUpdate
from optserve_server.state.read_parameters import Pull, Reply, check_pull
from optserve_server.state.session_state import SessionState
from optserve_server.state.sparse_rows import NamedRows
from optserve_server.state.staging import NamedArray, StagedTensor, Staging
from optserve_server.stepping.sparse_staging import NamedIndices, SparseStaging

MAX_IDLE_PLANS = 8
"""Plans of unary steps that a session keeps, each with the buffers of one step."""


_KEY = operator.attrgetter("name", "array.dtype", "array.shape")


class Sender(Protocol):
    """Sends answers, possibly while the next step is received."""

    @property
    def sending_task(self) -> object:
        """An answer that may still be under way; None if there is none."""

    @property
    def is_buffer_in_use(self) -> bool:
        """Whether the last answer's buffer is still in use."""


S = TypeVar("S", bound=SessionState)


class StepPlan(Generic[S]):
    """A plan, checked against its session.

    Args:
        session: the session.
        gradients: how whole gradients are laid out in a step's bytes.
        worker: name of the sender; empty for none.
        sparse_tensors: names of the tensors of which each step sends some rows.
        dtype: element type of the rows' bytes; None for each tensor's own.
        pull: the parameters that follow each result; None for none.
        region: the shared memory that gradients and parameters are in; None if they are sent.
        per_tensor_norms: whether each result has the norm of each tensor.
        worker_epoch: the epoch of the sender's membership; 0 for none.
        is_resident: whether its buffers count as the session's own, not as bytes in flight.

    Attributes:
        spec: the session's specification when the plan was made.
        byte_count: how many bytes of whole gradients a step has.
        parameters: how the parameters are laid out in an answer's bytes; None if none are sent.
        parameters_byte_count: how many bytes of parameters an answer has.
        writes_in_place: whether they are laid out as the gradient is, and take its place.

    Raises:
        DomainError: SESSION_NOT_FOUND, PARAMETERS_PENDING, UNKNOWN_TENSOR, DUPLICATE_TENSOR or
            POINT_UNAVAILABLE; fields are paths within ``pull``.
    """

    def __init__(
        self,
        session: S,
        gradients: Sequence[StagedTensor],
        *,
        worker: str = "",
        sparse_tensors: Sequence[str] = (),
        dtype: np.dtype[Any] | None = None,
        pull: Pull | None = None,
        region: Region | None = None,
        per_tensor_norms: bool = False,
        worker_epoch: int = 0,
        is_resident: bool = False,
    ) -> None:
        session.check_ready()
        self._is_resident = is_resident
        self.session, self.spec = session, session.spec
        self.gradients, self.sparse_tensors, self.dtype = tuple(gradients), tuple(sparse_tensors), dtype
        self.worker, self.per_tensor_norms = worker, per_tensor_norms
        self.worker_epoch = worker_epoch
        self.pull, self.region = pull, region
        self.parameters: tuple[StagedTensor, ...] | None = None
        if pull is not None:
            with within("pull"):
                parameters = check_pull(session, pull)
            if region is None:
                self.parameters = parameters
        self.byte_count = sum(tensor.byte_count for tensor in self.gradients)
        self.parameters_byte_count = sum(tensor.byte_count for tensor in self.parameters or ())
        self.writes_in_place = (
            self.parameters is not None
            and not sparse_tensors
            and list(map(_layout_key, self.parameters)) == list(map(_layout_key, self.gradients))
        )
        self._stagings: list[Staging] = []
        self._used = 0
        self._values: Staging | None = None

    @property
    def is_current(self) -> bool:
        """Whether the session is still there, and is what it was when the plan was made."""
        return self.spec is self.session.spec and not self.session.closed

    def get_gradient_staging(self, answers: Sender) -> Staging:
        """Where the gradient of a step of whole tensors goes.

        Args:
            answers: sends the answers, the last one possibly out of the last buffer.
        """
        if self.region is not None:
            return self.region.staging
        if self.writes_in_place and answers.sending_task is not None and answers.is_buffer_in_use:
            self._used = 1 - self._used
        while len(self._stagings) <= self._used:
            self._stagings.append(Staging(self.gradients, allocate=self.session.allocate))
        return self._stagings[self._used]

    def make_sparse_staging(self, indices: Sequence[npt.NDArray[Any]], announced: int) -> SparseStaging:
        """Where the gradient of a step with sparse rows goes.

        Args:
            indices: the rows (int32 or int64, [k]) of each sparse tensor, in the plan's order.
            announced: how many bytes follow.

        Raises:
            DomainError: OUT_OF_RANGE for an index, BYTE_LENGTH_MISMATCH.
        """
        named = list(map(NamedIndices, self.sparse_tensors, indices))
        names = [tensor.entry.name for tensor in self.gradients]
        session = self.session
        lazy = session.spec.gradient.sparse is SparseUpdate.LAZY
        arriving = SparseStaging(session.layout, names, named, self.dtype, session.allocate, lazy=lazy)
        if announced != arriving.buffer.size:
            raise wrong_byte_count_error(announced, arriving.buffer.size)
        return arriving

    def make_reply(self, gradient: Staging) -> Reply | None:
        """Where the parameters of an answer go: over the gradient if they are laid out alike."""
        if self.pull is None or self.region is not None:
            return None
        if self.writes_in_place:
            return Reply(self.pull.point, gradient)
        if self._values is None:
            pull, is_resident = self.pull, self._is_resident
            self._values = self.session.allocate_staging(pull.tensors, pull.dtype, is_resident=is_resident)
        return Reply(self.pull.point, self._values)


class UnaryStep(Generic[S]):
    """A plan of unary steps with the same tensors, types and pull, and the arrays that they fill.

    Small sessions keep theirs for the next step like it; a step takes it out while it runs.

    Args:
        session: the session.
        arrays: the gradients of complete tensors.
        rows: the gradients of some rows of other tensors.
        pull: the parameters that follow; None for none.

    Attributes:
        plan: the plan.
        staging: the gradient.

    Raises:
        DomainError: what `Session.stage_arrays` raises, and at ``options.pull`` what
            `Session.check_pull` raises.
    """

    def __init__(
        self, session: S, arrays: Sequence[NamedArray], rows: Sequence[NamedRows], pull: Pull | None
    ) -> None:
        session.check_ready()
        self._key: object = None if rows or not session.is_small else _plan_key(arrays, pull)
        if self._key is not None and not session.budget.has_room(
            Kind.RESIDENT, 2 * session.layout.byte_count
        ):
            self._key = None
        # What is kept between steps is not in flight: it would take the place of what is.
        is_resident = self._key is not None
        self.staging = session.stage_arrays(arrays, rows, is_resident=is_resident)
        with within("options"):
            self.plan = StepPlan(session, self.staging.tensors, pull=pull, is_resident=is_resident)
        by_name = {tensor.entry.name: tensor for tensor in self.staging.tensors}
        self._targets = [self.staging.array(by_name[named.name]) for named in arrays]

    @classmethod
    def get_or_make(
        cls, session: S, arrays: Sequence[NamedArray], rows: Sequence[NamedRows], pull: Pull | None
    ) -> Self:
        """A plan that holds a gradient: one that was kept, or a new one; arguments and errors as above."""
        kept = None if rows else session.idle_plans.pop(_plan_key(arrays, pull), None)
        if not isinstance(kept, cls) or not kept.plan.is_current:
            return cls(session, arrays, rows, pull)
        for target, named in zip(kept._targets, arrays, strict=True):
            target[:] = named.array.reshape(-1)
        return kept

    def cache_plan(self) -> None:
        """Keeps it for the next step like it."""
        plans = self.plan.session.idle_plans
        if self._key is not None and self.plan.is_current and len(plans) < MAX_IDLE_PLANS:
            plans[self._key] = self


def _plan_key(arrays: Sequence[NamedArray], pull: Pull | None) -> object:
    return (*map(_KEY, arrays), pull)


def _layout_key(tensor: StagedTensor) -> tuple[str, np.dtype[Any], int, bool]:
    return tensor.entry.name, tensor.dtype, tensor.byte_offset, tensor.rows is None


def wrong_byte_count_error(announced: int, expected: int) -> DomainError:
    """The error of a step or a push that announces a wrong length."""
    return DomainError(
        Reason.BYTE_LENGTH_MISMATCH,
        f"byte_count is {announced}, but the tensors have {expected} bytes",
        field="byte_count",
        metadata={"expected": expected, "actual": announced},
    )
