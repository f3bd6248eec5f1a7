"""Steps at which a schedule is evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from optserve.v1.function_service_pb2 import EvaluateScheduleRequest, StepRange
from optserve_server.errors import DomainError, Reason

MAX_POINTS = 1_000_000
"""Steps that one request may ask for."""


def steps_from(message: EvaluateScheduleRequest) -> npt.NDArray[np.int64]:
    """The steps that a request asks for.

    Raises:
        DomainError: FIELD_REQUIRED, OUT_OF_RANGE or LIMIT_EXCEEDED.
    """
    at = message.WhichOneof("at")
    if at is None:
        raise DomainError(Reason.FIELD_REQUIRED, "one of steps, range is required")
    steps = _decode_step_range(message.range) if at == "range" else message.steps.steps
    # A range of 2**63 steps has no len().
    count = _count_steps(steps) if steps else 0
    if count > MAX_POINTS:
        raise DomainError(
            Reason.LIMIT_EXCEEDED,
            f"more than {MAX_POINTS} steps",
            field=at,
            metadata={"limit": "max_schedule_points", "value": MAX_POINTS},
        )
    array = np.fromiter(steps, np.int64, count)
    negative = np.flatnonzero(array < 0)
    if len(negative):
        raise _out_of_range_error(f"steps.steps[{negative[0]}]", "at least 0")
    return array


def _count_steps(steps: Sequence[int]) -> int:
    if isinstance(steps, range):
        return (steps.stop - steps.start + steps.step - 1) // steps.step
    return len(steps)


def _decode_step_range(message: StepRange) -> range:
    if message.start < 0:
        raise _out_of_range_error("range.start", "at least 0")
    if message.stride < 0:
        raise _out_of_range_error("range.stride", "at least 1")
    return range(message.start, message.stop, message.stride or 1)


def _out_of_range_error(field: str, allowed: str) -> DomainError:
    return DomainError(
        Reason.OUT_OF_RANGE, f"{field} must be {allowed}", field=field, metadata={"range": allowed}
    )
