"""Prints how far every implementation is from the corpus, and fails on any gap.

``python -m tests.conformance [--client NAME] [FAMILY ...]``

``transcript`` is a family too: the fault transcript with each client, and mixed sessions of all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from tests.conformance import corpus
from tests.conformance.draws import NAMES, check_draw
from tests.conformance.drivers import DRIVERS, Driver, running_driver
from tests.conformance.embedded import Embedded
from tests.conformance.mixed import same_bits, train_in_turn, train_synchronously
from tests.conformance.oracled import Oracle
from tests.conformance.refusals import REFUSALS, check_refusal
from tests.conformance.served import Client
from tests.conformance.table import Column, Line, lines
from tests.conformance.tasks import FLOAT32, FLOAT64
from tests.conformance.transcript import STEPS, parameters_without_faults, play
from tests.conftest import gpu_count
from tests.support.server import running_server

NAME_WIDTH, CELL_WIDTH = 40, 22

TRANSCRIPT = "transcript"
"""Name of what is asked for beside the corpus' families."""

LEGEND = """\
Each cell: cases that passed, then the largest error in units in the last place, in float32
and in float64; in float64 alone where no more is computed (oracle, schedules, layers,
metrics).
Errors of losses and activations are relative to the largest magnitude of the array.
* leaves out cases whose source keeps numbers in float32, unless there are no others: they
have a tolerance of their own.   ! see the gaps below.
"""


@contextlib.contextmanager
def columns(chosen: Sequence[str] | None) -> Iterator[list[Column]]:
    """The chosen clients, or every implementation at hand: the server computes on NumPy, and serves them."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server("numpy"))
        found = []
        if chosen is None:
            client = stack.enter_context(contextlib.closing(Client(server.address)))
            found = [
                Column("oracle", Oracle(), float64_only=True),
                Column("numpy", Embedded(NumpyBackend())),
                Column("numba", Embedded(NumbaBackend())),
                *on_gpu(),
                Column("server", client),
            ]
        for language in chosen or DRIVERS:
            driver = stack.enter_context(running_driver(DRIVERS[language], server.address))
            found.append(Column(f"{language} client", driver))
        yield found


def on_gpu() -> list[Column]:
    """The executor for GPUs, if the machine has one."""
    if not gpu_count():
        return []
    from optserve_server.arrays.cupy_fused import CupyBackend

    return [Column("cupy", Embedded(CupyBackend()))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="tests.conformance", description=__doc__)
    parser.add_argument(
        "families", nargs="*", metavar="FAMILY", help=f"of {', '.join((*corpus.FAMILIES, TRANSCRIPT))}"
    )
    parser.add_argument("--client", action="append", choices=DRIVERS, help="run this client only; repeatable")
    options = parser.parse_args(arguments)
    asked = set(options.families or (*corpus.FAMILIES, TRANSCRIPT))
    if unknown := asked - {*corpus.FAMILIES, TRANSCRIPT}:
        parser.error(f"no such family: {', '.join(sorted(unknown))}")
    gaps: list[str] = []
    if families := [family for family in corpus.FAMILIES if family in asked]:
        gaps += table(options.client, families)
    if TRANSCRIPT in asked:
        gaps += play_transcripts(options.client or list(DRIVERS))
    for gap in gaps:
        print(f"GAP {gap}")
    return 1 if gaps else 0


def table(chosen: Sequence[str] | None, families: Sequence[str]) -> list[str]:
    """Prints the table of the corpus; returns the gaps."""
    with columns(chosen) as wanted:
        print(LEGEND)
        print(heading(wanted))
        found = []
        for line in lines(wanted, families):
            print(row(line, wanted), flush=True)
            found.append(line)
        others = [gap for column in wanted for gap in beside(column)]
    return [*summary(found, wanted), *others]


def play_transcripts(languages: Sequence[str]) -> Iterator[str]:
    """Plays the fault transcript with each client, and mixed sessions with all; yields the gaps."""
    expected = parameters_without_faults()
    for language in languages:
        try:
            with tempfile.TemporaryDirectory() as root:
                faults = play(DRIVERS[language], Path(root), expected)
        except (AssertionError, RuntimeError, OSError) as error:
            yield f"{language} client: transcript: {error}"
            continue
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items()))
        print(f"{language} client: {STEPS} steps with faults, bits equal: {told}", flush=True)
    # One client is mixed with Python's.
    mixed = languages if len(languages) > 1 else [*languages, "python"]
    with running_server("numpy") as server:
        for title, train in (("in turn", train_in_turn), ("synchronous", train_synchronously)):
            try:
                found = train([DRIVERS[language] for language in mixed], server.address)
                alone = train([DRIVERS["python"]] * len(mixed), server.address)
                assert same_bits(found, alone), f"other bits than {len(mixed)} Python workers"
            except (AssertionError, RuntimeError, OSError) as error:
                yield f"{title} session of {', '.join(mixed)}: {error}"
                continue
            print(f"{title} session of {', '.join(mixed)}: bits equal to Python workers", flush=True)


def beside(column: Column) -> Iterator[str]:
    """What a client gets wrong that has no vectors: refusals, and draws of initializers."""
    if not isinstance(column.runner, Driver):
        return
    checks: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        *((check_refusal, (name,)) for name in REFUSALS),
        *((check_draw, (name, dtype)) for name in NAMES for dtype in (FLOAT32, FLOAT64)),
    ]
    gaps = []
    for check, arguments in checks:
        try:
            check(column.runner, *arguments)
        except Exception as error:
            gaps.append(f"{column.title}: {type(error).__name__}: {error}")
    passed = len(checks) - len(gaps)
    print(f"{column.title}: {passed} of {len(checks)} refusals and initializers")
    yield from gaps


def heading(wanted: Sequence[Column]) -> str:
    """The titles."""
    titles = "".join(f"{column.title:>{CELL_WIDTH}}" for column in wanted)
    return f"{'family/name':<{NAME_WIDTH}}{'cases':>6}{titles}"


def row(line: Line, wanted: Sequence[Column]) -> str:
    """A line of the table."""
    cells = [line.cells[c.title].text() if c.title in line.cells else "-" for c in wanted]
    name = f"{line.family}/{line.name}"
    return f"{name:<{NAME_WIDTH}}{line.count:>6}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells)


def summary(found: Sequence[Line], wanted: Sequence[Column]) -> list[str]:
    """Prints sums; returns the gaps."""
    cases = sum(line.count for line in found)
    passed = [f"{c.title} {sum(len(n.cells[c.title].cases) for n in found if n.cells)}" for c in wanted]
    print(f"\n{cases} cases in {len(found)} files; passed: {', '.join(passed)}")
    return [gap for line in found for gap in line.gaps]


if __name__ == "__main__":
    raise SystemExit(main())
