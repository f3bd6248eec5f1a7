"""Metrics and the state of monitors as messages."""

from __future__ import annotations

from collections.abc import Sequence

from optserve.v1 import session_pb2
from optserve.v1.session_service_pb2 import Metric, ReportMetricsResponse
from optserve_server.errors import DomainError, Reason, within
from optserve_server.spec.early_stopping import EarlyStoppingState
from optserve_server.spec.plateau import ReduceOnPlateauState
from optserve_server.state.metrics_report import MetricsReport
from optserve_server.wire.fields.names import check_tensor_name


def metrics_from(messages: Sequence[Metric]) -> dict[str, float]:
    """Metrics by name; fields of errors start at ``metrics``."""
    if not messages:
        raise DomainError(Reason.FIELD_REQUIRED, "at least one metric is required", field="metrics")
    values: dict[str, float] = {}
    for index, message in enumerate(messages):
        with within(f"metrics[{index}]"):
            name = check_tensor_name(message.name)
            if not message.HasField("value"):
                raise DomainError(Reason.FIELD_REQUIRED, "value is required", field="value")
            if name in values:
                raise DomainError(Reason.CONFLICTING_FIELDS, f"{name!r} is stated twice", field="name")
            values[name] = message.value
    return values


def report_to(report: MetricsReport) -> ReportMetricsResponse:
    """What a report did."""
    return ReportMetricsResponse(
        step=report.step,
        learning_rate=report.learning_rate,
        reduced=report.reduced,
        stopped=report.stopped,
        restored=report.restored,
        reduce_on_plateau=plateau_to(report.monitors.plateau),
        early_stopping=early_stopping_to(report.monitors.stopping),
        metrics=[Metric(name=name, value=value) for name, value in report.values.items()],
    )


def plateau_to(state: ReduceOnPlateauState | None) -> session_pb2.ReduceOnPlateauState | None:
    """What reduce_on_plateau has come to, if there is one."""
    if state is None:
        return None
    return session_pb2.ReduceOnPlateauState(
        best_value=state.best_value,
        best_step=state.best_step,
        waited=state.waited,
        cooldown=state.cooldown,
        learning_rate_factor=state.learning_rate_factor,
    )


def early_stopping_to(state: EarlyStoppingState | None) -> session_pb2.EarlyStoppingState | None:
    """What early_stopping has come to, if there is one."""
    if state is None:
        return None
    return session_pb2.EarlyStoppingState(
        best_value=state.best_value,
        best_step=state.best_step,
        waited=state.waited,
        stopped=state.stopped,
    )
