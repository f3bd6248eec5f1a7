"""Copies the history of a session to a destination, each committed step exactly once."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve import errors
from optserve.events import Deleted
from optserve.recording.destination import STEPS, Destination, identify
from optserve.session import SessionHandle
from optserve.specs.enums import StepOutcome

COPY_PERIOD_S = 0.1
"""Seconds between two reads of the history while steps are taken. The server stores the last 4096 in full."""

METRICS_PERIOD_S = 1.0
"""Seconds between two reads of the metrics while steps are taken."""

MIN_RECONNECT_S, MAX_RECONNECT_S = 0.1, 5.0
"""Seconds before a server that does not answer is called again, doubled each time."""


class SessionRecorder:
    """Copies the history of a session.

    Events of the session say when there is something to copy; what is copied is always a part of the history,
    so that an event that was lost or repeated changes nothing. A read begins with the last copied point. If
    the history does not have it there, the whole history is compared with what the destination has:
    this is so at the beginning, after the session was restored, and after a server lost steps that were not
    durable. Steps of the destination that the session has no longer are removed there.

    Args:
        session: the session.
        destination: receives the points.

    Attributes:
        steps: points of steps that were written.
    """

    def __init__(self, session: SessionHandle, destination: Destination) -> None:
        self.steps = 0
        self._session = session
        self._destination = destination
        self._last: dict[str, npt.NDArray[Any]] = {}  # the last copied point of each series
        self._metrics: list[str] = []
        self._next_metrics_s = 0.0

    def record(self) -> None:
        """Copies until the session is deleted. A server that does not answer is called again.

        Raises:
            OptserveError: another error of the server, such as PermissionDenied.
            OSError: the destination cannot be written.
        """
        delay = MIN_RECONNECT_S
        while True:
            try:
                if self._follow():
                    return
                delay = MIN_RECONNECT_S
            except errors.NotFound:
                return
            except (errors.Unavailable, errors.DeadlineExceeded):
                time.sleep(delay)
                delay = min(2 * delay, MAX_RECONNECT_S)

    def copy(self, *, metrics: bool = True) -> bool:
        """Copies what the destination has not; returns whether there was anything.

        Args:
            metrics: whether to read the metrics in any case, and not only once a second.

        Raises:
            OptserveError: an error of the server, or it could not be reached.
            OSError: the destination cannot be written.
        """
        is_new = self._copy_series(STEPS)
        if metrics or not is_new or time.monotonic() >= self._next_metrics_s:
            self._next_metrics_s = time.monotonic() + METRICS_PERIOD_S
            for metric in self._metrics:
                is_new |= self._copy_series(metric)
        return is_new

    def _follow(self) -> bool:
        """Waits for events, and copies until nothing is new; True if the session was deleted."""
        with contextlib.closing(self._session.watch()) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event.what, Deleted):
                    return True
                if self.copy():
                    break
        while self.copy(metrics=False):
            time.sleep(COPY_PERIOD_S)
        return False

    def _copy_series(self, series: str) -> bool:
        last = self._last.get(series)
        after = 0 if last is None else int(last["number"]) - 1
        points, metrics = self._session.read_history_points(series, after_number=after)
        if last is None or not len(points) or not _is_same(points[0], last):
            if after:
                points, metrics = self._session.read_history_points(series)
            new = self._reconcile(series, points)
        else:
            new = points[1:]
        if series == STEPS:
            self._metrics = metrics
            applied = new[new["outcome"] == StepOutcome.APPLIED]  # others have no step of their own
            self.steps += len(applied)
        else:
            applied = new
        if len(applied):
            self._destination.write(series, applied)
        if len(points):
            self._last[series] = points[-1]
        else:
            self._last.pop(series, None)
        return bool(len(new))

    def _reconcile(self, series: str, points: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns the points that the destination has not, and removes steps that the session has no longer.

        Args:
            series: `STEPS`, or the name of a metric.
            points: the whole series, older points thinned.
        """
        written = self._destination.read_identities(series)
        if not len(written):
            return points
        if series == STEPS:
            points = points[points["outcome"] == StepOutcome.APPLIED]
        found = np.flatnonzero(np.isin(identify(points, self._destination.tick_us), written))
        first_new = int(found[-1]) + 1 if len(found) else 0
        new = points[first_new:]
        if series != STEPS:
            return new
        last_written = int(written["step"][-1])
        last_common = int(points["step"][first_new - 1]) if first_new else -1
        if last_common < last_written and (not len(new) or new["step"][0] <= last_written):
            self._destination.roll_back(last_common + 1)
            self._last.clear()
            return self._reconcile(series, points)
        return new


def _is_same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return all(a[field] == b[field] for field in ("number", "step", "time"))
