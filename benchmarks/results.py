"""What a run found: one file for programs, one table for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Result:
    """One figure, beside a peer's or alone.

    Attributes:
        group: what was measured.
        name: the contender.
        n: problem size, in elements unless the group says otherwise.
        value: its figure.
        unit: unit of the figure.
        peer: the contender that it is compared with; empty for none.
        ratio: value over the peer's value, the median over rounds of the same run; None
            without a peer.
        note: what explains the figure; empty for nothing.
    """

    group: str
    name: str
    n: int
    value: float
    unit: str
    peer: str = ""
    ratio: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Failure:
    """Something that could not be measured, and why."""

    group: str
    name: str
    n: int
    error: str


@dataclasses.dataclass(frozen=True)
class Spread:
    """How far the rounds behind a result lay apart.

    Attributes:
        low, high: the least and the greatest ratio, or value if there is no peer.
    """

    group: str
    name: str
    n: int
    peer: str
    low: float
    high: float


Finding = Result | Failure | Spread


@dataclasses.dataclass
class Run:
    """All findings of a run.

    Attributes:
        meta: when, where and with what.
    """

    meta: dict[str, Any]
    results: list[Result] = dataclasses.field(default_factory=list)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    spreads: list[Spread] = dataclasses.field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Adds a finding to the list of its kind."""
        if isinstance(finding, Result):
            self.results.append(finding)
        elif isinstance(finding, Failure):
            self.failures.append(finding)
        else:
            self.spreads.append(finding)

    def beside(self, earlier: Run) -> Run:
        """This run, and of an earlier one the groups that this one left out."""
        measured: list[Result | Failure] = [*self.results, *self.failures]
        own = {entry.group for entry in measured}
        joined = Run({**self.meta, "earlier": earlier.meta.get("date")})
        for run, mine in ((earlier, False), (self, True)):
            findings: list[Finding] = [*run.results, *run.failures, *run.spreads]
            for finding in findings:
                if mine or finding.group not in own:
                    joined.add(finding)
        return joined

    def write(self, path: Path) -> None:
        """Writes ``{"meta": …, "results": […]}``; meta holds failures and spreads."""
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = {**self.meta, "errors": _dicts(self.failures), "spreads": _dicts(self.spreads)}
        path.write_text(json.dumps({"meta": meta, "results": _dicts(self.results)}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Run:
        """What `write` wrote."""
        content = json.loads(path.read_text())
        meta = content["meta"]
        failures = [Failure(**entry) for entry in meta.pop("errors", [])]
        spreads = [Spread(**entry) for entry in meta.pop("spreads", [])]
        return cls(meta, [Result(**entry) for entry in content["results"]], failures, spreads)

    def find(self, group: str, name: str, n: int, peer: str = "") -> Result | None:
        """The result of that description, with any peer where ``peer`` is empty."""
        for r in self.results:
            if (r.group, r.name, r.n) == (group, name, n) and peer in ("", r.peer):
                return r
        return None


def _dicts(entries: Sequence[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(entry) for entry in entries]
