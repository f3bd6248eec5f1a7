"""The figures of docs/performance.md and their tables, written from a run so that they agree with it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from benchmarks.bounds import BOUNDS, EARLIER, number, verdicts
from benchmarks.layers import ECHO, LAYERS, STEP, STEP_OVER_DATA
from benchmarks.results import Result, Run
from benchmarks.table import noisy

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


QUESTIONS: Mapping[str, tuple[str, str, int]] = {
    "How long is a step of 10,000 parameters over gRPC?": ("layers", STEP, 10_000),
    "And over a data connection?": ("layers", STEP_OVER_DATA, 10_000),
    "How much memory does a session of 25 million parameters need?": (
        "memory",
        "session of one tensor",
        25_000_000,
    ),
    "And a small session beyond its tensors?": ("memory", "a small session beyond its tensors", 1000),
    "What do 1000 steps of 25 million parameters add?": ("memory", "growth over 1000 steps", 25_000_000),
    "How fast are 16 clients of 100,000 parameters together?": ("clients", "stream, 16 clients", 100_000),
}
"""What is asked, and the result that answers it."""

WORST_CALLS = 6
"""Heavy calls in the page's table."""


def rewrite(run: Run, page: Path, data: Path) -> None:
    """Replaces the figures of a page and writes the tables that it links.

    Args:
        run: what was measured.
        page: the document, which has a line START and a line END.
        data: the folder of ``performance_figures.csv`` and ``performance_bounds.csv``.

    Raises:
        ValueError: the page has no such lines.
    """
    text = page.read_text()
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{page} has no lines {START} and {END}")
    page.write_text(f"{before}{START}\n{figures(run)}\n{END}{after}")
    _write(data / "performance_bounds.csv", _bounds(run))
    _write(data / "performance_figures.csv", _rows(run))


def figures(run: Run) -> str:
    """Machine and whole steps as Markdown."""
    tables = (_end_to_end(run), _against(run), _layers(run), _heavy_calls(run), _expectations(run))
    return "\n".join([*_head(run), *chain.from_iterable(tables), *_failures(run)])


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
    """Steps per second of the contenders."""
    sizes = _sizes(run, "end to end")
    rows = {name: [_steps(run, name, n) for n in sizes] for name in CONTENDERS}
    yield from _table("steps per second", sizes, rows)


def _against(run: Run) -> Iterator[str]:
    """Ratios to the earlier revision."""
    sizes = _sizes(run, "against")
    names = dict.fromkeys(r.name for r in run.results if r.peer == EARLIER)
    rows = {name: [_ratio(run.find("against", name, n, EARLIER)) for n in sizes] for name in names}
    yield from _table(f"speed divided by that of revision {run.meta.get('against', '')}", sizes, rows)


def _layers(run: Run) -> Iterator[str]:
    """Shares of the processor time of a step over gRPC."""
    sizes = _sizes(run, "layers")
    if sizes:
        yield "\n![Share of each layer in a step over gRPC](images/bench_layers.svg)"
    rows = {layer: [_value(run.find("layers", f"both, {layer}", n)) for n in sizes] for layer in LAYERS} | {
        "step / bare gRPC": [_ratio(run.find("layers", STEP, n, ECHO)) for n in sizes]
    }
    yield from _table("percent of a step's processor time, gRPC", sizes, rows)


def _heavy_calls(run: Run) -> Iterator[str]:
    """The slowest heavy calls."""
    found = [r for r in run.results if r.group == "heavy calls"]
    worst = sorted(found, key=lambda r: -r.value)[:WORST_CALLS]
    rows = {
        r.name: [f"{r.value:.0f}", *(f"{h.value:.0f}" for h in run.results if _is_health(h, r))]
        for r in worst
    }
    yield from _table("beside the call, ms", ("small steps, p99", "/healthz, worst"), rows)


def _expectations(run: Run) -> Iterator[str]:
    """Answers to what users ask first."""
    rows = {
        question: [f"{result.value:,.{0 if result.value > 100 else 2}f} {result.unit}"]
        for question, description in QUESTIONS.items()
        if (result := run.find(*description)) is not None
    }
    yield from _table("question", ("answer",), rows)


def _is_health(health: Result, call: Result) -> bool:
    return (health.group, health.name) == ("heavy calls, /healthz", call.name)


def _sizes(run: Run, group: str) -> list[int]:
    return sorted({r.n for r in run.results if r.group == group})


def _table(title: str, columns: Sequence[object], rows: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A table without its empty rows; nothing if there are no others."""
    rows = {name: cells for name, cells in rows.items() if any(cells)}
    if not rows:
        return
    heads = [f"{column:,}" if isinstance(column, int) else str(column) for column in columns]
    yield f"\n| {title} | " + " | ".join(heads) + " |"
    yield "|---|" + "--:|" * len(heads)
    for name, cells in rows.items():
        yield f"| {name} | " + " | ".join(cells) + " |"


def _value(result: Result | None) -> str:
    return "" if result is None else f"{result.value:.0f}"


def _ratio(result: Result | None) -> str:
    return "" if result is None or result.ratio is None else f"{result.ratio:.2f}"


def _steps(run: Run, contender: str, n: int) -> str:
    """A contender's first figure, the better one of two OpenMP settings, as text; empty for none."""
    names = (contender, f"{contender}, OMP 1", f"{contender}, OMP 2")
    found = [result.value for name in names if (result := run.find("end to end", name, n))]
    return f"{max(found):,.0f}" if found else ""


def _bounds(run: Run) -> Iterator[tuple[object, ...]]:
    yield "group", "name", "n", "peer", "bound", "measured", "noisy", "verdict"
    for bound, result, verdict in verdicts(run, BOUNDS):
        shown = bound if result is None else result
        found, mark = ("", "") if result is None else (f"{number(result):.3g}", _mark(run, result))
        yield shown.group, shown.name, shown.n or "", shown.peer, bound.text, found, mark, verdict


def _rows(run: Run) -> Iterator[tuple[object, ...]]:
    yield "group", "name", "n", "value", "unit", "peer", "ratio", "noisy", "note"
    for r in sorted(run.results, key=lambda r: r.group):
        ratio = "" if r.ratio is None else f"{r.ratio:.3g}"
        yield r.group, r.name, r.n, f"{r.value:.4g}", r.unit, r.peer, ratio, _mark(run, r), r.note


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
