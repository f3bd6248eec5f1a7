"""The figures of docs/performance.md, written from a run so that they cannot drift from it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from benchmarks.results import Result, Run
from benchmarks.table import NOISY, noisy, number, verdicts

START, END = "<!-- figures -->", "<!-- end of figures -->"
"""What lies between these two lines is replaced."""

BUSY = 0.5
"""Load of a machine that does something else beside."""


def rewrite(run: Run, path: Path) -> None:
    """Replaces the figures of a document.

    Raises:
        ValueError: the document does not say where they go.
    """
    text = path.read_text()
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{path} has no lines {START} and {END}")
    path.write_text(f"{before}{START}\n{figures(run)}\n{END}{after}")


def figures(run: Run) -> str:
    """Machine, promises and figures as Markdown."""
    return "\n".join([*_head(run), *_promises(run), *_failures(run), *_groups(run)])


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
        yield "**It was busy with other work, so these figures are no more than a hint.**"


def _promises(run: Run) -> Iterator[str]:
    yield "\n### Promises\n"
    yield f"`~` marks figures whose rounds lay apart by more than a factor of {NOISY}.\n"
    yield "| what | n | against | wanted | measured | |"
    yield "|---|---|---|---|---|---|"
    for target, result, verdict in verdicts(run):
        found, mark = ("", "") if result is None else (number(target, result), _mark(run, result))
        what = f"{target.group}: {target.name}"
        yield f"| {what} | {target.n:,} | {target.peer} | {target.wanted} | {found}{mark} | {verdict} |"


def _failures(run: Run) -> Iterator[str]:
    if run.failures:
        yield "\n### What could not be measured\n"
    for f in run.failures:
        yield f"- {f.group}, {f.name}, {f.n:,}: {f.error}"


def _groups(run: Run) -> Iterator[str]:
    for group, results in groupby(sorted(run.results, key=lambda r: r.group), key=lambda r: r.group):
        yield f"\n### {group[0].upper()}{group[1:]}\n"
        yield "| | n | value | | against | ratio |"
        yield "|---|---|---|---|---|---|"
        for r in results:
            ratio = "" if r.ratio is None else f"{r.ratio:.3g}{_mark(run, r)}"
            yield f"| {r.name} | {r.n:,} | {r.value:.4g} | {r.unit} | {r.peer} | {ratio} |"


def _mark(run: Run, result: Result) -> str:
    return " ~" if noisy(run, result) else ""
