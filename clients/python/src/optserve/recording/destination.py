"""Where points of a session's history are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

STEPS = ""
"""Name of the series of steps; other series have the names of metrics."""

STEP_VALUES = (
    *("learning_rate", "gradient_norm", "clipped_gradient_norm", "regularization_penalty"),
    *("non_finite_count", "staleness", "contributions"),
)
"""Fields of a step that are recorded as scalars."""

IDENTITY = np.dtype([("step", "i8"), ("time", "i8")])
"""What tells the points of a series apart: the session's step, and the time in ticks of the destination."""


class Destination(Protocol):
    """A copy of one session's history.

    Attributes:
        tick_us: microseconds of the unit in which the destination stores times.
    """

    tick_us: int

    def read_identities(self, series: str) -> npt.NDArray[Any]:
        """Returns the recorded points of a series in the order in which they were written (`IDENTITY`).

        Points that `roll_back` removed are not among them.
        """

    def write(self, series: str, points: npt.NDArray[Any]) -> None:
        """Adds points.

        Args:
            series: `STEPS`, or the name of a metric.
            points: points of the history (`optserve.history.History`), at least one.
        """

    def roll_back(self, step: int) -> None:
        """Removes the points of this step and later ones, of all series."""

    def close(self) -> None:
        """Releases files and connections."""


def list_scalars(series: str, point: npt.NDArray[Any]) -> Mapping[str, float]:
    """Returns the scalars of a point by tag: ``step/learning_rate``, ``metrics/loss``."""
    if series == STEPS:
        return {f"step/{name}": float(point[name]) for name in STEP_VALUES}
    return {f"metrics/{series}": float(point["value"])}


def find_series(tag: str) -> str:
    """Returns the series whose points have a tag."""
    kind, name = tag.split("/", 1)
    return STEPS if kind == "step" else name


def count_ticks(points: npt.NDArray[Any], tick_us: int) -> npt.NDArray[np.int64]:
    """Returns the times of points in ticks since 1970."""
    return points["time"].astype("M8[us]").astype(np.int64) // tick_us


class IdentityIndex:
    """Identities of the recorded points of each series, in 16 bytes a point."""

    def __init__(self) -> None:
        self._series: dict[str, tuple[npt.NDArray[Any], int]] = {}

    def add(self, series: str, identities: npt.NDArray[Any]) -> None:
        """Adds points (`IDENTITY`)."""
        stored, count = self._series.get(series, (np.empty(0, IDENTITY), 0))
        total = count + len(identities)
        if total > len(stored):
            stored = np.resize(stored, max(total, 2 * len(stored), 64))
        stored[count:total] = identities
        self._series[series] = stored, total

    def read(self, series: str) -> npt.NDArray[Any]:
        """Returns the points of a series."""
        stored, count = self._series.get(series, (np.empty(0, IDENTITY), 0))
        return stored[:count]

    def roll_back(self, step: int) -> None:
        """Removes the points of this step and later ones."""
        for series in self._series:
            found = self.read(series)
            remaining = found[found["step"] < step]
            self._series[series] = remaining, len(remaining)


def identify(points: npt.NDArray[Any], tick_us: int) -> npt.NDArray[Any]:
    """Returns the identities of points of the history (`IDENTITY`)."""
    identities = np.empty(len(points), IDENTITY)
    identities["step"], identities["time"] = points["step"], count_ticks(points, tick_us)
    return identities
