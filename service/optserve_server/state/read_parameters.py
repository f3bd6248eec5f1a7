"""Reading of a session's values: copies of its parameter-shaped arrays."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.kernel import Array
from optserve_server.arrays.narrow_floats import encode_narrow_floats
from optserve_server.errors import DomainError, Reason
from optserve_server.programs.step_programs import AVERAGE, PARAMETER, POINT
from optserve_server.state.session_state import SessionState
from optserve_server.state.staging import Run, StagedTensor, Staging, lay_out, split_by_counter


class Point(StrEnum):
    """One of a session's parameter-shaped values."""

    PARAMETERS = "PARAMETERS"
    LOOKAHEAD = "LOOKAHEAD"
    AVERAGE = "AVERAGE"


@dataclass(frozen=True)
class Pull:
    """Which values to send.

    Attributes:
        tensors: names in any order; None for all.
        dtype: element type; None for each tensor's own.
        point: which value.
    """

    tensors: tuple[str, ...] | None
    dtype: np.dtype[Any] | None
    point: Point


@dataclass
class Reply:
    """The values after a step, written into a buffer.

    Attributes:
        point: which values.
        staging: where they go. It may be the gradient's own buffer, whose elements the step
            has read when it writes.
        step: the step that they belong to, once it is known.
    """

    point: Point
    staging: Staging
    step: int = 0


@dataclass(frozen=True)
class Values:
    """A copy of values.

    Attributes:
        step: the step that they belong to.
        point: which value they are.
        tensors: how they lie in the buffer.
        buffer: the bytes (uint8); they do not change any more.
    """

    step: int
    point: Point
    tensors: tuple[StagedTensor, ...]
    buffer: npt.NDArray[np.uint8]

    def array(self, position: int) -> npt.NDArray[Any]:
        """The shaped values of the tensor at ``position``."""
        tensor = self.tensors[position]
        stop = tensor.byte_offset + tensor.byte_count
        return self.buffer[tensor.byte_offset : stop].view(tensor.dtype).reshape(tensor.entry.shape)


def read_parameters(session: SessionState, staging: Staging, point: Point) -> Values:
    """Fills ``staging`` with values.

    Raises:
        DomainError: POINT_UNAVAILABLE if the session keeps no such point.
    """
    check_parameter_point(session, point)
    backend = session.arenas.backend
    with np.errstate(over="ignore"):  # what a narrower type cannot hold becomes infinite
        for run in staging.runs:
            encode_narrow_floats(backend.to_host(_read_elements(session, run, point)), run.staged)
    return Values(session.step, point, staging.tensors, staging.buffer)


def _read_elements(session: SessionState, run: Run, point: Point) -> Array:
    """The elements of a run at a point."""
    partition = session.arenas.find_partition(run)
    place = slice(run.start - partition.start, run.stop - partition.start)
    if point is Point.AVERAGE and session.step > 0:
        return partition.arrays[AVERAGE][place]
    parameters = partition.arrays[PARAMETER][place]
    if point is not Point.LOOKAHEAD or not partition.programs.rule.has_lookahead:
        return parameters
    ahead = session.arenas.backend.full(run.stop - run.start, 0.0, partition.dtype)
    numbers = session.scalars.compute_step_scalars(session.step)
    for counter, part in split_by_counter(session.scalars, run):
        scalars = numbers.scalars[counter]
        given = {POINT: ahead[part.start - run.start : part.stop - run.start]}
        partition.run(partition.programs.lookahead_program, part.start, part.stop, scalars, given=given)
    return ahead


def check_pull(session: SessionState, pull: Pull) -> tuple[StagedTensor, ...]:
    """Checks that values can be sent, before anything depends on it.

    Returns:
        How they will lie in a buffer.

    Raises:
        DomainError: SESSION_NOT_FOUND, PARAMETERS_PENDING, UNKNOWN_TENSOR, DUPLICATE_TENSOR or
            POINT_UNAVAILABLE.
    """
    session.check_ready()
    check_parameter_point(session, pull.point)
    return lay_out(session.layout, pull.tensors, pull.dtype)


def check_parameter_point(session: SessionState, point: Point) -> None:
    """Refuses a point that the session does not keep.

    Raises:
        DomainError: POINT_UNAVAILABLE.
    """
    partitions = session.arenas.partitions.values()
    if point is Point.AVERAGE and session.spec.weight_average is None:
        raise DomainError(Reason.POINT_UNAVAILABLE, "the session keeps no weight average", field="point")
    if point is Point.LOOKAHEAD and not any(p.programs.rule.has_lookahead for p in partitions):
        raise DomainError(Reason.POINT_UNAVAILABLE, "no rule of the session looks ahead", field="point")
