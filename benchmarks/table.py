"""A run as text: every figure, then the outcome of each target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.results import Result, Run
from benchmarks.targets import TARGETS, Of, Target

NOISY = 1.35
"""Greatest over least ratio of a run's rounds from which a figure is marked."""


def table(run: Run) -> str:
    """Figures, failures and promises."""
    return "\n".join([*_figures(run), "", *_failures(run), *_promises(run)])


def noisy(run: Run, result: Result) -> bool:
    """Whether the rounds behind a result lay far apart."""
    for s in run.spreads:
        if (s.group, s.name, s.n, s.peer) == (result.group, result.name, result.n, result.peer):
            return s.high > NOISY * s.low
    return False


def verdicts(run: Run, targets: Sequence[Target] = TARGETS) -> Iterator[tuple[Target, Result | None, str]]:
    """Each promise, what was measured, and met, missed or not measured, and of what
    was promised of another contender, what it would be."""
    for target in targets:
        result = target.result(run)
        verdict = "not measured" if result is None else target.verdict(result)
        yield target, result, verdict


def number(target: Target, result: Result) -> str:
    """What was measured of a promise."""
    unit = result.unit if target.of is Of.VALUE else target.of.value
    return f"{target.number(result):.3g} {unit}".strip()


def _figures(run: Run) -> Iterator[str]:
    yield f"{'group':<26}{'n':>10}  {'name':<40}{'value':>11} {'unit':<9}{'ratio':>7}"
    for r in run.results:
        ratio = f"{r.ratio:7.3g} of {r.peer}" if r.ratio is not None else ""
        mark = "  ~" if noisy(run, r) else ""
        yield f"{r.group:<26}{r.n:>10}  {r.name:<40}{r.value:>11.4g} {r.unit:<9}{ratio}{mark}"
    yield f"~ the rounds' ratios lie apart by more than a factor of {NOISY}"


def _failures(run: Run) -> Iterator[str]:
    for f in run.failures:
        yield f"ERROR {f.group}, {f.name} at {f.n}: {f.error}"


def _promises(run: Run) -> Iterator[str]:
    yield f"{'promise':<68}{'wanted':>18}{'measured':>14}"
    for target, result, verdict in verdicts(run):
        peer = f" / {target.peer}" if target.peer else ""
        what = f"{target.group}: {target.name}{peer} at {target.n:g}"
        found = number(target, result) if result is not None else "-"
        yield f"{what:<68}{target.wanted:>18}{found:>14}  {verdict}"
