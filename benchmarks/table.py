"""A run as text: every figure beside its peer, then the bounds."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bounds import BOUNDS, number, verdicts
from benchmarks.results import Result, Run

NOISY = 1.35
"""Greatest over least ratio of a run's rounds from which a figure is marked."""


def table(run: Run) -> str:
    """Figures, failures and bounds."""
    return "\n".join([*_figures(run), "", *_failures(run), *_bounds(run)])


def noisy(run: Run, result: Result) -> bool:
    """Whether the rounds of a result are far apart."""
    for s in run.spreads:
        if (s.group, s.name, s.n, s.peer) == (result.group, result.name, result.n, result.peer):
            return s.high > NOISY * s.low
    return False


def _figures(run: Run) -> Iterator[str]:
    yield f"{'group':<26}{'n':>10}  {'name':<40}{'value':>11} {'unit':<9}{'ratio':>7}"
    for r in run.results:
        ratio = f"{r.ratio:7.3g} of {r.peer}" if r.ratio is not None else ""
        mark = "  ~" if noisy(run, r) else ""
        yield f"{r.group:<26}{r.n:>10}  {r.name:<40}{r.value:>11.4g} {r.unit:<9}{ratio}{mark}"
        if r.note:
            yield f"{'':38}{r.note}"
    yield f"~ the ratios of the rounds differ by more than a factor of {NOISY}"


def _failures(run: Run) -> Iterator[str]:
    for f in run.failures:
        yield f"ERROR {f.group}, {f.name} at {f.n}: {f.error}"


def _bounds(run: Run) -> Iterator[str]:
    yield f"{'bound':<90}{'':>10}{'measured':>12}"
    for bound, result, verdict in verdicts(run, BOUNDS):
        shown = bound if result is None else result
        peer = f" / {shown.peer}" if shown.peer else ""
        n = "" if shown.n is None else f" at {shown.n:g}"
        found = "-" if result is None else f"{number(result):.3g}"
        yield f"{f'{shown.group}: {shown.name}{peer}{n}':<90}{bound.text:>10}{found:>12}  {verdict}"
