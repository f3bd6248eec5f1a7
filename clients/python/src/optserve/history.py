"""History of a session: its steps and the metrics that were reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve._engine.step_result import OUTCOMES
from optserve._transport.call import Call, CallSequence
from optserve.v1 import session_service_pb2 as wire

PAGE_POINTS = 10_000
"""Points of a page, the most that a server sends."""

_STEP = np.dtype(
    [
        ("number", "i8"),
        ("time", "M8[us]"),
        ("step", "i8"),
        ("learning_rate", "f8"),
        ("gradient_norm", "f8"),
        ("clipped_gradient_norm", "f8"),
        ("regularization_penalty", "f8"),
        ("non_finite_count", "i8"),
        ("staleness", "i8"),
        ("contributions", "i4"),
        ("outcome", "O"),
        ("worker", "O"),
    ]
)
_VALUE = np.dtype([("number", "i8"), ("time", "M8[us]"), ("step", "i8"), ("value", "f8")])


@dataclass(frozen=True)
class History:
    """Steps of a session and its metrics, in order, older ones thinned.

    Attributes:
        steps: structured array [n] with the fields ``number`` (of the point, from 1), ``time`` (UTC),
            ``step``, ``learning_rate``, ``gradient_norm``, ``clipped_gradient_norm``,
            ``regularization_penalty``, ``non_finite_count``, ``staleness``, ``contributions``, ``outcome``
            (`StepOutcome`) and ``worker``.
        metrics: by name, structured arrays [n] with the fields ``number``, ``time``, ``step`` and
            ``value``.
    """

    steps: npt.NDArray[Any]
    metrics: Mapping[str, npt.NDArray[Any]]


def read_history(name: str) -> CallSequence[History]:
    """Reads the whole history of a session, a page with each call.

    Args:
        name: resource name of the session.
    """
    steps, metrics = yield from read_history_points(name)
    values = {}
    for metric in metrics:
        values[metric], _ = yield from read_history_points(name, metric)
    return History(steps, values)


def read_history_points(
    name: str, metric: str = "", after_number: int = 0
) -> CallSequence[tuple[npt.NDArray[Any], list[str]]]:
    """Reads steps, or a metric's values; also returns the names of the metrics.

    Args:
        name: resource name of the session.
        metric: name of the metric; empty for the steps.
        after_number: points with greater numbers are read.
    """
    dtype = _VALUE if metric else _STEP
    rows: list[tuple[Any, ...]] = []
    after, last = after_number, after_number + 1
    while after < last:
        request = wire.GetHistoryRequest(name=name, metric=metric, after_number=after, page_size=PAGE_POINTS)
        page = yield Call(lambda stubs: stubs.sessions.GetHistory, request, lambda answer: answer)
        points = page.values if metric else page.steps
        rows += [tuple(_read_field(point, field) for field in dtype.names or ()) for point in points]
        if not points:
            break
        after, last = points[-1].number, page.last_number
    return np.array(rows, dtype), list(page.metrics)


def _read_field(point: Any, name: str) -> Any:
    value = getattr(point, name)
    if name == "time":
        return np.datetime64(value.ToNanoseconds() // 1000, "us")
    return OUTCOMES.get(value) if name == "outcome" else value
