"""The figures of docs/performance.md and their tables, written from a run so that they agree with it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.results import Result, Run
from benchmarks.table import noisy, number, verdicts

START, END = "<!-- figures -->", "<!-- end of figures -->"
"""What lies between these two lines is replaced."""

BUSY = 0.5
"""Load of a machine that does something else beside."""


CONTENDERS = (
    "shared memory, in place",
    "stream",
    "stream, gRPC",
    "Ray actor",
    "gloo",
    "torch RPC",
    "naive gRPC",
)
"""Rows of the page's table; every figure is in the data files."""


def rewrite(run: Run, page: Path, data: Path) -> None:
    """Replaces the figures of a page and writes the tables that it links.

    Args:
        run: what was measured.
        page: the document, which has a line START and a line END.
        data: the folder of ``performance_figures.csv`` and ``performance_targets.csv``.

    Raises:
        ValueError: the page has no such lines.
    """
    text = page.read_text()
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{page} has no lines {START} and {END}")
    page.write_text(f"{before}{START}\n{figures(run)}\n{END}{after}")
    _write(data / "performance_targets.csv", _targets(run))
    _write(data / "performance_figures.csv", _rows(run))


def figures(run: Run) -> str:
    """Machine and whole steps as Markdown."""
    return "\n".join([*_head(run), *_end_to_end(run), *_failures(run)])


def _head(run: Run) -> Iterator[str]:
    meta = run.meta
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    yield f"Measured {meta['date']} on {meta['cores']} cores of {meta['processor']}, {meta['system']},"
    yield f"Python {meta['python']}, {versions}."
    if meta.get("earlier"):
        yield f"Some groups were measured earlier, {meta['earlier']}."
    load = meta["load_before"]
    yield f"The load of the machine when the run began was {load:.2f}."
    if load > BUSY:
        yield "**It was busy with other work, so these figures are only a hint.**"


def _end_to_end(run: Run) -> Iterator[str]:
    sizes = sorted({r.n for r in run.results if r.group == "end to end"})
    if not sizes:
        return
    yield "\n| steps per second | " + " | ".join(f"{n:,}" for n in sizes) + " |"
    yield "|---|" + "--:|" * len(sizes)
    for contender in CONTENDERS:
        cells = [_steps(run, contender, n) for n in sizes]
        if any(cells):
            yield f"| {contender} | " + " | ".join(cells) + " |"


def _steps(run: Run, contender: str, n: int) -> str:
    """A contender's first figure, the better one of two OpenMP settings, as text; empty for none."""
    names = (contender, f"{contender}, OMP 1", f"{contender}, OMP 2")
    found = [result.value for name in names if (result := run.find("end to end", name, n))]
    return f"{max(found):,.0f}" if found else ""


def _targets(run: Run) -> Iterator[tuple[object, ...]]:
    yield "group", "name", "n", "peer", "wanted", "measured", "noisy", "verdict"
    for target, result, verdict in verdicts(run):
        found, mark = ("", "") if result is None else (number(target, result), _mark(run, result))
        yield target.group, target.name, target.n, target.peer, target.wanted, found, mark, verdict


def _rows(run: Run) -> Iterator[tuple[object, ...]]:
    yield "group", "name", "n", "value", "unit", "peer", "ratio", "noisy"
    for r in sorted(run.results, key=lambda r: r.group):
        ratio = "" if r.ratio is None else f"{r.ratio:.3g}"
        yield r.group, r.name, r.n, f"{r.value:.4g}", r.unit, r.peer, ratio, _mark(run, r)


def _write(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _failures(run: Run) -> Iterator[str]:
    if run.failures:
        yield "\nWhat could not be measured:\n"
    for f in run.failures:
        yield f"- {f.group}, {f.name}, {f.n:,}: {f.error}"


def _mark(run: Run, result: Result) -> str:
    return "yes" if noisy(run, result) else "no"
