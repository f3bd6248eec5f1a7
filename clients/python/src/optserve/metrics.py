"""What a server makes of the metrics that are reported to it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from optserve import coercion
from optserve.v1 import session_pb2
from optserve.v1 import session_service_pb2 as wire


@dataclass(frozen=True)
class PlateauState:
    """What `ReduceOnPlateau` has come to.

    Attributes:
        best_value: the best value so far; None before the first.
        best_step: the session's step when it was reported.
        waited: bad values in a row.
        cooldown: values that are left of a cool-down.
        learning_rate_factor: what learning rates are multiplied by from the next step on.
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
    """What `EarlyStopping` has come to.

    Attributes:
        best_value: the best value so far; None before the first.
        best_step: the session's step when it was reported.
        waited: values since one was better, and better than the baseline.
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
    """What one report of metrics did.

    Attributes:
        step: the session's step, which the metrics belong to.
        learning_rate: what the next step will use, before the groups' factors.
        reduced: whether this report lowered the rate.
        stopped: whether this report ended the training.
        restored: whether the best parameters were put back; pull them without ``if_newer_than_step``.
        reduce_on_plateau: its state; None where the session has none.
        early_stopping: its state; None where the session has none.
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
    """A report under a request id of its own."""
    given = coercion.checked_names(coercion.named(metrics, "metrics"), "metrics")
    values = [
        wire.Metric(name=metric, value=coercion.number(value, f"metrics[{metric!r}]"))
        for metric, value in given.items()
    ]
    request = wire.ReportMetricsRequest(name=name, request_id=uuid.uuid4().hex, metrics=values)
    if expected_step is not None:
        request.expected_step = coercion.step(expected_step, "expected_step")
    return request
