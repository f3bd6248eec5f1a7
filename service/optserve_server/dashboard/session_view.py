"""What the dashboard shows of a session, as values for JSON."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.coordination.membership import Member
from optserve_server.sessions.session import Session
from optserve_server.state.history import OUTCOMES
from optserve_server.wire.specifications.spec_text import SPEC_TEXT

MAX_POINTS = 1000
"""Points of a curve; of more, as many at equal distances."""

MAX_WORKERS = 500


def summarize_session(session: Session) -> dict[str, Any]:
    """A session's row in the list."""
    last = session.history.steps.read_last()
    return {
        "id": session.id,
        "optimizer": session.spec.optimizer.algorithm.name,
        "state": _state_of(session),
        "step": session.step,
        "elements": sum(session.layout.arena_sizes.values()),
        "workers": len(session.coordinator.membership.active),
        "learning_rate": None if last is None else float(last["learning_rate"]),
        "gradient_norm": None if last is None else float(last["gradient_norm"]),
        "time": None if last is None else float(last["time"]),
    }


def describe_session(session: Session) -> dict[str, Any]:
    """Everything about a session but its snapshots; the session must be locked."""
    membership = session.coordinator.membership
    now = membership.clock()
    history = session.history
    steps = history.steps.read_history_points()
    return {
        **summarize_session(session),
        "created": session.created.timestamp(),
        "now": time.time(),
        "tensors": len(session.layout.entries),
        "resident_bytes": session.resident_bytes,
        "skipped": session.skipped,
        "accumulated": session.accumulated,
        "durable_step": session.durable_step,
        "spec": json.loads(SPEC_TEXT.encode(session.spec)),
        "steps": _columns(steps),
        "steps_per_second": _steps_per_second(steps),
        "outcomes": {str(outcome): int((steps["outcome"] == i).sum()) for i, outcome in enumerate(OUTCOMES)},
        "metrics": {name: _columns(series.read_history_points()) for name, series in history.metrics.items()},
        "members": [_describe_member(member, now) for member in membership.list_members()[:MAX_WORKERS]],
    }


def _state_of(session: Session) -> str:
    if session.away:
        return "on disk"
    if session.damaged:
        return "damaged"
    if not session.ready:
        return "waits for parameters"
    stopping = session.monitors.stopping
    return "stopped" if stopping is not None and stopping.stopped else "ready"


def _columns(points: npt.NDArray[Any]) -> dict[str, list[float]]:
    """Points as a list for each field."""
    if len(points) > MAX_POINTS:
        points = points[np.linspace(0, len(points) - 1, MAX_POINTS).astype(np.int64)]
    return {name: points[name].tolist() for name in points.dtype.names or ()}


def _steps_per_second(steps: npt.NDArray[Any]) -> float | None:
    """Speed over the last hundred steps at most; None before the second."""
    last = steps[-100:]
    passed = float(last["time"][-1] - last["time"][0]) if len(last) > 1 else 0.0
    return float(last["step"][-1] - last["step"][0]) / passed if passed > 0 else None


def _describe_member(member: Member, now: float) -> dict[str, Any]:
    return {
        "worker": member.worker,
        "rank": member.rank,
        "epoch": member.epoch,
        "state": str(member.state),
        "contributions": member.contributions,
        "last_step": member.last_step,
        "staleness": member.staleness,
        "steps_per_second": 1 / member.interval if member.interval else None,
        "seconds_since": now - member.last_at if member.last_at else None,
    }
