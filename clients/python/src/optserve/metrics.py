"""Answers to reports of metrics."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from optserve import coercion
from optserve._transport.call import Call
from optserve.message_record import MessageRecord
from optserve.v1 import session_pb2
from optserve.v1 import session_service_pb2 as wire


@dataclass(frozen=True)
class PlateauState(MessageRecord, message=session_pb2.ReduceOnPlateauState):
    """State of `ReduceOnPlateau`.

    Attributes:
        best_value: the best value so far; None before the first.
        best_step: the session's step when it was reported.
        waited: number of consecutive bad values.
        cooldown: remaining values of a cool-down.
        learning_rate_factor: factor of learning rates from the next step on.
    """

    best_value: float | None
    best_step: int
    waited: int
    cooldown: int
    learning_rate_factor: float


@dataclass(frozen=True)
class StoppingState(MessageRecord, message=session_pb2.EarlyStoppingState):
    """State of `EarlyStopping`.

    Attributes:
        best_value: the best value so far; None before the first.
        best_step: the session's step when it was reported.
        waited: number of values since the last improvement that was also better than the baseline.
        stopped: whether training has ended.
    """

    best_value: float | None
    best_step: int
    waited: int
    stopped: bool


@dataclass(frozen=True)
class MetricsReport(MessageRecord, message=wire.ReportMetricsResponse):
    """Result of one report of metrics.

    Attributes:
        step: the session's step, to which the metrics belong.
        learning_rate: of the next step, before the groups' factors.
        reduced: whether this report lowered the rate.
        stopped: whether this report ended the training.
        restored: whether the best parameters were restored; pull them without ``if_newer_than_step``.
        reduce_on_plateau: its state; None if the session has none.
        early_stopping: its state; None if the session has none.
        metrics: the reported values by name.
    """

    step: int
    learning_rate: float
    reduced: bool
    stopped: bool
    restored: bool
    reduce_on_plateau: PlateauState | None
    early_stopping: StoppingState | None
    metrics: Mapping[str, float]

    @classmethod
    def from_message(cls, message: wire.ReportMetricsResponse, **converted: object) -> Self:
        values = {metric.name: metric.value for metric in message.metrics}
        return super().from_message(message, metrics=values, **converted)


def make_report(
    name: str, metrics: Mapping[str, float] | Iterable[tuple[str, float]], expected_step: int | None
) -> Call[MetricsReport]:
    """Returns the call that reports metrics, with a new request id."""
    given = coercion.require_string_keys(coercion.to_mapping(metrics, "metrics"), "metrics")
    values = [
        wire.Metric(name=metric, value=coercion.to_float(value, f"metrics[{metric!r}]"))
        for metric, value in given.items()
    ]
    request = wire.ReportMetricsRequest(name=name, request_id=uuid.uuid4().hex, metrics=values)
    if expected_step is not None:
        request.expected_step = coercion.to_step(expected_step, "expected_step")
    return Call(lambda stubs: stubs.sessions.ReportMetrics, request, MetricsReport.from_message)
