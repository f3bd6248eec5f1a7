"""Pages of a session's history as messages."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import out_of_range_error
from optserve_server.state.history import OUTCOMES, History
from optserve_server.wire.messages.steps import OUTCOME_NUMBERS

DEFAULT_POINTS, MAX_POINTS = 1000, 10_000
"""Points of a page that states no size, and of the largest page."""


def check_history_request(request: pb.GetHistoryRequest) -> None:
    """Checks the numbers of a request.

    Raises:
        DomainError: OUT_OF_RANGE.
    """
    for field in ("after_number", "page_size"):
        if getattr(request, field) < 0:
            raise out_of_range_error(field, getattr(request, field), "at least 0")


def page_to(history: History, request: pb.GetHistoryRequest) -> pb.GetHistoryResponse:
    """A page of a history; the session must be locked."""
    series = history.metrics.get(request.metric) if request.metric else history.steps
    response = pb.GetHistoryResponse(metrics=history.metrics)
    if series is None:
        return response
    limit = min(request.page_size or DEFAULT_POINTS, MAX_POINTS)
    points = series.read_history_points(request.after_number, limit)
    response.last_number = series.count
    if request.metric:
        response.values.extend(map(_metric_point_to, points))
    else:
        workers = history.list_workers()
        response.steps.extend(_step_point_to(point, workers) for point in points)
    return response


def _step_point_to(point: npt.NDArray[Any], workers: list[str]) -> pb.StepPoint:
    fields = dict(zip(point.dtype.names or (), point.item(), strict=True))
    return pb.StepPoint(
        **{
            **fields,
            "time": _time_to(fields["time"]),
            "outcome": OUTCOME_NUMBERS[OUTCOMES[fields["outcome"]]],
            "worker": workers[fields["worker"]],
        }
    )


def _metric_point_to(point: npt.NDArray[Any]) -> pb.MetricPoint:
    number, time, step, value = point.item()
    return pb.MetricPoint(number=number, time=_time_to(time), step=step, value=value)


def _time_to(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
