"""What a run found: one file for programs, one table for people."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Result:
    """One figure beside a peer's.

    Attributes:
        group: what was measured.
        name: the contender.
        n: problem size in elements.
        value: its figure, the greater the better.
        unit: unit of the figure.
        peer: the contender that it is compared with; empty for none.
        ratio: value over the peer's value in the same run; None without a peer.
    """

    group: str
    name: str
    n: int
    value: float
    unit: str
    peer: str = ""
    ratio: float | None = None


def compared(group: str, n: int, unit: str, figures: dict[str, float], peer: str) -> list[Result]:
    """A result for each figure, all compared with one of them."""
    return [
        Result(group, name, n, value, unit, peer, value / figures[peer]) for name, value in figures.items()
    ]


def write(results: Sequence[Result], path: Path) -> None:
    """Writes ``{"meta": …, "results": […]}``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"meta": _meta(), "results": [dataclasses.asdict(result) for result in results]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def table(results: Sequence[Result]) -> str:
    """The results as text, a line each."""
    lines = [f"{'group':<12} {'n':>10} {'name':<28} {'value':>10} {'unit':<8} ratio"]
    for r in results:
        ratio = f"{r.ratio:6.2f} x {r.peer}" if r.ratio is not None else ""
        lines.append(f"{r.group:<12} {r.n:>10} {r.name:<28} {r.value:>10.4g} {r.unit:<8} {ratio}")
    return "\n".join(lines)


def _meta() -> dict[str, object]:
    packages = ["grpcio", "protobuf", "numpy", "numba", "torch"]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages},
    }
