"""History of a session: its steps and the metrics that clients reported, thinned by age."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import Budget, Charge, Kind
from optserve_server.state.step_result import StepOutcome, StepResult

MAX_METRICS = 64
"""Names of metrics in one session's history."""

RECENT_STEPS, OLDER_STEPS = 4096, 1024
RECENT_VALUES, OLDER_VALUES = 1024, 256
"""Points that are stored in full, and points of each thinner level, of steps and of a metric."""

CHARGED_POINTS = 64
"""Points whose memory is counted at once."""

OBJECT_BYTES = 41
"""Memory of a stored point beside its own bytes: the bytes object, and a reference to it."""

STEP_POINT = np.dtype(
    [
        ("number", "<i8"),
        ("time", "<f8"),
        ("step", "<i8"),
        ("learning_rate", "<f8"),
        ("gradient_norm", "<f8"),
        ("clipped_gradient_norm", "<f8"),
        ("regularization_penalty", "<f8"),
        ("non_finite_count", "<i8"),
        ("staleness", "<i8"),
        ("contributions", "<i4"),
        ("outcome", "<i4"),
        ("worker", "<i4"),
    ]
)
"""A step. ``outcome`` is an index into `OUTCOMES`, ``worker`` one into `History.workers`."""

METRIC_POINT = np.dtype([("number", "<i8"), ("time", "<f8"), ("step", "<i8"), ("value", "<f8")])
"""A reported value of a metric."""

OUTCOMES = (StepOutcome.APPLIED, StepOutcome.SKIPPED)
"""Outcomes that complete a step; other results are no points."""

MIN_WORKER_NAMES = 1024
"""Names of workers above which those that no stored point needs are removed."""

MAX_TIME = 253402300800.0
"""Unix time of the year 10000, which messages cannot state any more."""

pack_step = struct.Struct("<qdqddddqqiii").pack
"""Bytes of a `STEP_POINT`, of its fields."""

pack_value = struct.Struct("<qdqd").pack
"""Bytes of a `METRIC_POINT`, of its fields."""


class Series:
    """Points in order, numbered from 1: recent ones in full, older ones thinned.

    Level 0 has the last points. The oldest point of a full level k moves to level k + 1 if its number
    is a multiple of 2**(k + 1), and is dropped otherwise.

    Args:
        dtype: of a point, ``number`` first.
        recent: points on level 0.
        older: points on each other level.
        budget: what the memory counts against. At a limit, the oldest point makes way for the newest.

    Attributes:
        count: points so far; the last one's number.
    """

    def __init__(self, dtype: np.dtype[Any], recent: int, older: int, budget: Budget) -> None:
        self.count = 0
        self._dtype = dtype
        self._recent, self._older = recent, older
        self._levels: list[deque[bytes]] = [deque()]
        self._charge = Charge(budget, Kind.RESIDENT, 0)
        self._stored = self._charged = 0
        self._is_limited = False

    def append(self, point: bytes) -> None:
        """Adds a point, whose number is ``count`` + 1."""
        self.count += 1
        if self._stored == self._charged and not self._charge_more():
            oldest = next((level for level in reversed(self._levels) if level), None)
            if oldest is None:
                return
            oldest.popleft()
            self._stored -= 1
        self._stored += 1
        for k, level in enumerate(self._levels):
            level.append(point)
            if len(level) <= (self._older if k else self._recent):
                return
            point = level.popleft()
            if int.from_bytes(point[:8], "little") & ((2 << k) - 1):
                self._stored -= 1
                return
        self._levels.append(deque([point]))

    def read_history_points(self, after: int = 0, limit: int | None = None) -> npt.NDArray[Any]:
        """Points with greater numbers than ``after``, the first ``limit`` of them."""
        stored = b"".join([b"".join(level) for level in reversed(self._levels)])
        points = np.frombuffer(stored, self._dtype)
        return points[np.searchsorted(points["number"], after, "right") :][:limit]

    def read_last(self) -> Any | None:
        """The last point; None if there is none."""
        level = self._levels[0]
        return np.frombuffer(level[-1], self._dtype)[0] if level else None

    def restore(self, data: npt.NDArray[np.uint8], count: int) -> npt.NDArray[Any]:
        """Takes the points that another series returned, as bytes, and returns them.

        Raises:
            ValueError: they are not points in ascending order up to ``count``.
        """
        points = np.frombuffer(data.tobytes(), self._dtype)
        numbers = points["number"]
        is_complete = numbers[-1] == count if len(points) else count == 0
        if not is_complete or (np.diff(numbers, prepend=0) < 1).any():
            raise ValueError("points are missing, or not in order")
        times = points["time"]
        if not ((times >= 0) & (times < MAX_TIME)).all():
            raise ValueError("a time is out of range")
        for point in points:
            self.append(point.tobytes())
        self.count = count
        return points

    def _charge_more(self) -> bool:
        """Counts the memory of further points; False if a limit forbids it, now or before."""
        if not self._is_limited:
            charged = self._charged + CHARGED_POINTS
            try:
                self._charge.raise_to(charged * (self._dtype.itemsize + OBJECT_BYTES))
                self._charged = charged
            except DomainError:
                self._is_limited = True
        return not self._is_limited


class History:
    """Steps of a session, and the metrics that were reported to it.

    Args:
        budget: what its memory counts against.

    Attributes:
        metrics: reported values by name of the metric (`METRIC_POINT`), in the order of the first reports.
        workers: names of workers; the first is empty, for steps of no worker.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._steps = Series(STEP_POINT, RECENT_STEPS, OLDER_STEPS, budget)
        self._unpacked: deque[tuple[StepResult, float]] = deque()
        self.metrics: dict[str, Series] = {}
        self.workers: dict[str, int] = {"": 0}
        self._max_workers = MIN_WORKER_NAMES

    def add_step(self, result: StepResult, time: float) -> None:
        """Adds a step.

        Args:
            result: its result, APPLIED or SKIPPED.
            time: when it was taken, Unix time in seconds.
        """
        if self._unpacked:
            self.pack_steps()
        self._unpacked.append((result, time))

    def pack_steps(self) -> None:
        """Packs the step that was added last; else the next one does, or who reads the steps."""
        while self._unpacked:
            result, time = self._unpacked.popleft()
            worker = self.workers.get(result.worker)
            if worker is None:
                worker = self._add_worker(result.worker)
            point = pack_step(
                self._steps.count + 1,
                time,
                result.step,
                result.learning_rate,
                result.gradient_norm,
                result.clipped_gradient_norm,
                result.regularization_penalty,
                result.non_finite_count,
                result.staleness,
                result.contributions,
                result.outcome is StepOutcome.SKIPPED,
                worker,
            )
            self._steps.append(point)

    @property
    def steps(self) -> Series:
        """Applied and skipped steps (`STEP_POINT`)."""
        self.pack_steps()
        return self._steps

    def check_names(self, names: Iterable[str]) -> None:
        """Checks that the values of these metrics can be added.

        Raises:
            DomainError: LIMIT_EXCEEDED.
        """
        new = [name for name in names if name not in self.metrics]
        if new and len(self.metrics) + len(new) > MAX_METRICS:
            raise DomainError(
                Reason.LIMIT_EXCEEDED,
                f"a session stores {MAX_METRICS} metrics; {new[0]!r} would be one more",
                field="metrics",
                metadata={"limit": "metrics", "value": MAX_METRICS},
            )

    def add_values(self, values: Mapping[str, float], step: int, time: float) -> None:
        """Adds values of metrics that were reported at a step; arguments as those of `add_step`."""
        for name, value in values.items():
            series = self.metrics.get(name)
            if series is None:
                series = self.metrics[name] = self._make_metric()
            series.append(pack_value(series.count + 1, time, step, value))

    def list_workers(self) -> list[str]:
        """Names of workers by the numbers that points have."""
        self.pack_steps()
        return list(self.workers)

    def encode(self) -> tuple[dict[str, Any], list[npt.NDArray[np.uint8]]]:
        """Facts that JSON can state, and the points of the steps and of each metric as bytes."""
        series = [self.steps, *self.metrics.values()]
        facts = {
            "workers": self.list_workers(),
            "metrics": list(self.metrics),
            "counts": [one.count for one in series],
        }
        return facts, [one.read_history_points().view(np.uint8) for one in series]

    @classmethod
    def decode(
        cls, facts: Mapping[str, Any], points: Sequence[npt.NDArray[np.uint8]], budget: Budget
    ) -> History:
        """The history that `encode` returned facts and points of.

        Raises:
            ValueError, TypeError, KeyError: they do not fit together.
        """
        history = cls(budget)
        workers, metrics, counts = map(list, (facts["workers"], facts["metrics"], facts["counts"]))
        if workers[:1] != [""] or not all(isinstance(name, str) for name in workers + metrics):
            raise ValueError("names are missing")
        history.workers = {name: i for i, name in enumerate(workers)}
        history.metrics = {name: history._make_metric() for name in metrics}
        if len(history.workers) != len(workers) or len(history.metrics) != len(metrics):
            raise ValueError("a name is stated twice")
        if len(metrics) > MAX_METRICS:
            raise ValueError("there are too many metrics")
        history._max_workers = max(MIN_WORKER_NAMES, 2 * len(workers))
        series = [history.steps, *history.metrics.values()]
        steps, *_ = [
            one.restore(data, count) for one, data, count in zip(series, points, counts, strict=True)
        ]
        for name, limit in (("outcome", len(OUTCOMES)), ("worker", len(workers))):
            if not ((steps[name] >= 0) & (steps[name] < limit)).all():
                raise ValueError(f"{name} is out of range")
        return history

    def _make_metric(self) -> Series:
        return Series(METRIC_POINT, RECENT_VALUES, OLDER_VALUES, self._budget)

    def _add_worker(self, name: str) -> int:
        """The number of a new worker; names that no stored point has make way for it."""
        if len(self.workers) >= self._max_workers:
            points = self._steps.read_history_points()
            names = self.list_workers()
            used = np.unique(np.append(points["worker"], 0))
            self.workers = {names[i]: new for new, i in enumerate(used)}
            renumbered = points.copy()
            renumbered["worker"] = np.searchsorted(used, points["worker"])
            count = self._steps.count
            self._steps = Series(STEP_POINT, RECENT_STEPS, OLDER_STEPS, self._budget)
            self._steps.restore(renumbered.view(np.uint8), count)
            self._max_workers = max(MIN_WORKER_NAMES, 2 * len(self.workers))
        return self.workers.setdefault(name, len(self.workers))
