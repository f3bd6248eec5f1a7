"""What the project promises: one table, held against every run."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from benchmarks.results import Result, Run

N4, N5, N6, N25, N9 = 10**4, 10**5, 10**6, 25 * 10**6, 10**9


class Of(enum.Enum):
    """Which number of a result is promised."""

    RATIO = "x"
    VALUE = ""


@dataclass(frozen=True)
class Target:
    """A declared figure.

    Attributes:
        group, name, n, peer: of the result that it is about.
        least: the number is to be at least this.
        most: or at most this.
        aim: what would be better still.
        of: whether the ratio or the value is meant.
        promised: False if it was promised of another contender, and is shown for comparison.
    """

    group: str
    name: str
    n: int
    peer: str = ""
    least: float | None = None
    most: float | None = None
    aim: float | None = None
    of: Of = Of.RATIO
    promised: bool = True

    def number(self, result: Result) -> float:
        """The number that is promised."""
        return result.value if self.of is Of.VALUE or result.ratio is None else result.ratio

    def is_met_by(self, result: Result) -> bool:
        """Whether a result keeps it."""
        number = self.number(result)
        return number >= self.least if self.least is not None else number <= (self.most or 0.0)

    def verdict(self, result: Result) -> str:
        """What is said of a result."""
        if not self.promised:
            return "would be met" if self.is_met_by(result) else "would be missed"
        return "met" if self.is_met_by(result) else "MISSED"

    @property
    def wanted(self) -> str:
        """The promise as text."""
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        return bound + (f", aim {self.aim:g}" if self.aim is not None else "")

    def result(self, run: Run) -> Result | None:
        """The result of a run that it is about."""
        return run.find(self.group, self.name, self.n, self.peer)


def _row(
    group: str, name: str, peer: str, *wanted: tuple[int, float] | tuple[int, float, float]
) -> list[Target]:
    """Least ratios by size, each perhaps with an aim."""
    return [Target(group, name, w[0], peer, least=w[1], aim=w[2] if len(w) > 2 else None) for w in wanted]


def _alike(name: str, targets: Iterable[Target]) -> list[Target]:
    """What another contender's targets would be for this one."""
    return [replace(target, name=name, promised=False) for target in targets]


END, ADAM = "end to end", "kernel: Adam"
SHARED, RAY = "shared memory, in place", "Ray actor"

STREAM = (
    *_row(END, "stream", "naive gRPC", (N4, 2.3), (N6, 4.5), (N25, 8, 10)),
    *_row(END, "stream", "torch RPC", (N4, 1.5), (N6, 0.9, 1.2), (N25, 1.3)),
    *_row(END, "stream", "gloo", (N4, 1.2), (N6, 0.9, 1.2), (N25, 0.8, 1)),
    *_row(END, "stream", RAY, (N4, 3), (N6, 1.4)),
)
"""Of streams over TCP: of what a client gets there by default."""

CHUNKS = (
    *_row("transport", "chunk stream", "raw socket", (N25, 0.85)),
    *_row("transport", "chunk stream", "Arrow Flight", (N25, 1.2)),
)

CLIENTS = _row("clients", "stream, 16 clients", "naive gRPC, 16 clients", (N5, 2.5))

LIMITED = (
    Target(
        "journal",
        "JOURNAL, 1,500 writes/s, 16 clients",
        N4,
        "JOURNAL, 1,500 writes/s, one client",
        least=4,
    ),
    Target(
        "journal",
        "JOURNAL, 3,000 writes/s, 16 clients",
        N4,
        "JOURNAL, 3,000 writes/s, one client",
        least=4,
        promised=False,
    ),
)
"""Of a disk that has less to give than sixteen clients ask for; the faster one is shown for comparison."""

TARGETS = (
    *STREAM,
    *_alike("stream, gRPC", STREAM),
    *_row(END, SHARED, RAY, (N4, 4), (N6, 10), (N25, 3)),
    *_row(END, "stream, bfloat16 wire", "stream", (N6, 1.2), (N25, 1.4)),
    Target("latency", "stream", N4, "ping-pong, sync client", most=1.7),
    Target("latency", "stream, gRPC", N4, "ping-pong, sync client", most=1.7),
    *CHUNKS,
    *_alike("chunk stream, gRPC", CHUNKS),
    *(
        target
        for rule in ("Adam", "AdamW", "SGD with momentum")
        for target in _row(
            f"kernel: {rule}", "numba", "torch fused", (N4, 15), (N5, 5), (N6, 1.3), (N25, 0.95)
        )
    ),
    *_row(ADAM, "numpy, 1 thread", "torch fused", (N25, 0.35)),
    *_row(ADAM, "numpy, 2 threads", "torch fused", (N25, 0.55)),
    *_row("kernel: 1000 tensors", "session step", "torch fused", (N6, 50)),
    *_row("kernel: clip, AdamW, EMA", "one pass, measured as it came", "torch, three calls", (N25, 2)),
    Target("kernel: gradient dtype", "float16", N25, "float32", most=1.3),
    Target("kernel: gradient dtype", "bfloat16", N25, "float32", most=1.3),
    *CLIENTS,
    *_alike("stream, gRPC, 16 clients", CLIENTS),
    Target("clients", "slowest of 16 clients", N5, "their median", most=1.5),
    Target("clients", "rise of p99 beside a 100 MB step", N4, most=10, of=Of.VALUE),
    Target("journal", "journal record", N25, "write and fdatasync", least=0.8),
    Target("journal", "JOURNAL, 16 clients", N4, "JOURNAL, one client", least=4),
    Target(
        "journal", "JOURNAL, 0.6 ms a sync, 16 clients", N4, "JOURNAL, 0.6 ms a sync, one client", least=4
    ),
    *LIMITED,
    Target("journal", "16 sessions, 0.6 ms a sync", N4, "one session, 0.6 ms a sync", least=4),
    Target("memory", "beyond parameters, slots and a gradient", N25, most=64, of=Of.VALUE),
    Target("memory", "growth over 1000 steps", N25, most=1, of=Of.VALUE),
    Target("memory", "a small session beyond its tensors", 1000, most=64, of=Of.VALUE),
    Target("growth", "straightness of time", 10**8, least=0.99, of=Of.VALUE),
    Target("growth", "straightness of memory", 10**8, least=0.99, of=Of.VALUE),
    *_row("gpu", "cupy Adam", "device copy", (N9, 0.85)),
    *_row("gpu", "cupy Adam", "torch fused", (N9, 1.0)),
    Target("gpu", "round trip", 25 * 10**7, "bus limit", most=1.3),
)
