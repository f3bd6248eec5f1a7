"""Reports of metrics to a session's monitors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from optserve_server.state.metric_monitors import MetricMonitors
from optserve_server.state.session_state import SessionState


@dataclass(frozen=True)
class MetricsReport:
    """Result of one report.

    Attributes:
        step: the session's step.
        learning_rate: what the next step will use, before the groups' factors.
        reduced: whether this report lowered it.
        stopped: whether this report ended the training.
        restored: whether the best parameters were put back.
        monitors: the state after it.
        values: the metrics by name.
    """

    step: int
    learning_rate: float
    reduced: bool
    stopped: bool
    restored: bool
    monitors: MetricMonitors
    values: Mapping[str, float]


def prepare_report(session: SessionState, values: Mapping[str, float]) -> Callable[[], MetricsReport]:
    """Judges metrics of the session's parameters as they are; changes nothing before it is called.

    Raises:
        DomainError: LIMIT_EXCEEDED if the session cannot store as many metrics.
    """
    session.history.check_names(values)
    numbers, step = session.scalars, session.step
    after = session.monitors.observe(
        session.spec, values, step, lambda factor: numbers.compute_rate_drop(step, factor)
    )
    return partial(_commit_report, session, values, after)


def _commit_report(
    session: SessionState, values: Mapping[str, float], after: MetricMonitors
) -> MetricsReport:
    before = session.monitors
    restored = _update_best_parameters(session, before, after)
    session.monitors = after
    session.history.add_values(values, session.step, session.changed_at)
    session.scalars.reduction = after.learning_rate_factor
    return MetricsReport(
        step=session.step,
        learning_rate=session.scalars.learning_rate(session.step),
        reduced=after.learning_rate_factor != before.learning_rate_factor,
        stopped=after.stopped,
        restored=restored,
        monitors=after,
        values=values,
    )


def _update_best_parameters(session: SessionState, before: MetricMonitors, after: MetricMonitors) -> bool:
    """Keeps the parameters if they are the best so far; puts the best ones back at the end."""
    if after.best is None or before.stopping is None or after.stopping is None:
        return False
    parameters = session.arenas.parameters
    if after.stopping.best_value != before.stopping.best_value:
        for dtype, kept in after.best.items():
            kept[:] = parameters[dtype]
    if not after.stopped or after.stopping.best_value is None:
        return False
    with session.changing:
        for dtype, kept in after.best.items():
            parameters[dtype][:] = kept
    return True
