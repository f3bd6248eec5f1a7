"""Answers to reports of metrics."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from optserve import coercion
from optserve.v1 import session_pb2
from optserve.v1 import session_service_pb2 as wire


@dataclass(frozen=True)
class PlateauState:
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

    @classmethod
    def of(cls, message: session_pb2.ReduceOnPlateauState) -> PlateauState:
        """The state that a server sent."""
        return cls(
            best_value=message.best_value if message.HasField("best_value") else None,
            best_step=message.best_step,
            waited=message.waited,
            cooldown=message.cooldown,
            learning_rate_factor=message.learning_rate_factor,
        )


@dataclass(frozen=True)
class StoppingState:
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

    @classmethod
    def of(cls, message: session_pb2.EarlyStoppingState) -> StoppingState:
        """The state that a server sent."""
        return cls(
            best_value=message.best_value if message.HasField("best_value") else None,
            best_step=message.best_step,
            waited=message.waited,
            stopped=message.stopped,
        )


@dataclass(frozen=True)
class MetricsReport:
    """Result of one report of metrics.

    Attributes:
        step: the session's step, to which the metrics belong.
        learning_rate: of the next step, before the groups' factors.
        reduced: whether this report lowered the rate.
        stopped: whether this report ended the training.
        restored: whether the best parameters were restored; pull them without ``if_newer_than_step``.
        reduce_on_plateau: its state; None if the session has none.
        early_stopping: its state; None if the session has none.
    """

    step: int
    learning_rate: float
    reduced: bool
    stopped: bool
    restored: bool
    reduce_on_plateau: PlateauState | None
    early_stopping: StoppingState | None

    @classmethod
    def of(cls, message: wire.ReportMetricsResponse) -> MetricsReport:
        """The report that a server sent."""
        return cls(
            step=message.step,
            learning_rate=message.learning_rate,
            reduced=message.reduced,
            stopped=message.stopped,
            restored=message.restored,
            reduce_on_plateau=plateau_of(message),
            early_stopping=stopping_of(message),
        )


def plateau_of(message: wire.ReportMetricsResponse | session_pb2.Session) -> PlateauState | None:
    """The state of reduce_on_plateau in a message, if there is one."""
    return PlateauState.of(message.reduce_on_plateau) if message.HasField("reduce_on_plateau") else None


def stopping_of(message: wire.ReportMetricsResponse | session_pb2.Session) -> StoppingState | None:
    """The state of early_stopping in a message, if there is one."""
    return StoppingState.of(message.early_stopping) if message.HasField("early_stopping") else None


def request_of(
    name: str, metrics: Mapping[str, float] | Iterable[tuple[str, float]], expected_step: int | None
) -> wire.ReportMetricsRequest:
    """Encodes a report, with a new request id."""
    given = coercion.check_names(coercion.to_mapping(metrics, "metrics"), "metrics")
    values = [
        wire.Metric(name=metric, value=coercion.number(value, f"metrics[{metric!r}]"))
        for metric, value in given.items()
    ]
    request = wire.ReportMetricsRequest(name=name, request_id=uuid.uuid4().hex, metrics=values)
    if expected_step is not None:
        request.expected_step = coercion.step(expected_step, "expected_step")
    return request
