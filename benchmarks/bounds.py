"""Bounds that a run is compared with: ratios of figures of the same run, and delays that users notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.results import Result, Run
from tests.conformance.drivers import DRIVERS

SIZES = (10_000, 1_000_000, 25_000_000)
EARLIER = "the earlier revision"


@dataclass(frozen=True)
class Bound:
    """A bound on figures of one kind.

    Attributes:
        group, name, n, peer: of the results; an empty name and None are any.
        least, most: bounds on the ratio of each result, on its value if it has no ratio.
        is_any: whether it is enough if one of the results is within the bounds.
    """

    group: str
    name: str = ""
    n: int | None = None
    peer: str = ""
    least: float = float("-inf")
    most: float = float("inf")
    is_any: bool = False

    def results(self, run: Run) -> Iterator[Result]:
        """The results of a run that it is about; with ``is_any``, the first one within or else the last."""
        found = [
            r
            for r in run.results
            if (r.group, r.peer) == (self.group, self.peer)
            and self.name in ("", r.name)
            and self.n in (None, r.n)
        ]
        if self.is_any and found:
            found = [next((r for r in found if self.holds(r)), found[-1])]
        yield from found

    def holds(self, result: Result) -> bool:
        """Whether a result is within the bounds."""
        return self.least <= number(result) <= self.most

    @property
    def text(self) -> str:
        """The bound as text."""
        return f">= {self.least:.3g}" if self.most == float("inf") else f"<= {self.most:.3g}"


def number(result: Result) -> float:
    """What is compared: the ratio, or the value of a result without one."""
    return result.value if result.ratio is None else result.ratio


def verdicts(run: Run, bounds: tuple[Bound, ...]) -> Iterator[tuple[Bound, Result | None, str]]:
    """Every bound with each of its results, and ``met``, ``MISSED`` or ``not measured``."""
    for bound in bounds:
        found = list(bound.results(run))
        for result in found:
            yield bound, result, "met" if bound.holds(result) else "MISSED"
        if not found:
            yield bound, None, "not measured"


def _against(transport: str, n: int) -> Iterator[Bound]:
    least = 0.95 if n > 10_000 else 0.7 if transport == "gRPC" else 0.85
    for call in ("stream", "pipelined"):
        yield Bound("against", f"{transport}, {call}", n, EARLIER, least=least)
    yield Bound("against", f"{transport}, handle", n, f"{transport}, stream", least=1 / 1.3)


BOUNDS = (
    *(
        bound
        for transport in ("gRPC", "data connection", "shared memory")
        for n in SIZES
        for bound in _against(transport, n)
    ),
    Bound("against", "unary", 10_000, EARLIER, least=1.3),
    Bound("against", "journalled, stream", 10_000, EARLIER, least=1.1),
    Bound("against", "data connection", None, "gRPC", least=1.3, is_any=True),
    *(Bound("layers", "step over gRPC", n, "bare gRPC", most=1.25) for n in SIZES),
    *(Bound("layers", "both, ours", n, most=25) for n in SIZES),
    Bound("heavy calls", most=20),
    Bound("heavy calls, /healthz", most=100),
    Bound("neighbours", peer="alone", most=2),
    Bound("PyTorch, training step", "optserve, shared memory", 10_000_000, "torch fused", least=1 / 1.2),
    Bound("PyTorch, training step", "optserve, shared memory", None, "DeepSpeed CPUAdam", least=1),
    Bound("workers", "SYNC", 100_000, "Ray parameter server", least=1.5),
    Bound("workers", "ROUNDS", 1_000_000, "Flower FedAvg", least=5),
    Bound("workers, one of them slow", peer="SYNC, 3 workers, none of them slow", least=0.95),
    *(Bound("languages", peer=f"{language}, echo", least=0.8) for language in DRIVERS),
)
