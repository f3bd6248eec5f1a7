"""``python -m benchmarks``: every figure, as build/bench.json and as a table."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import machine, report
from benchmarks.options import BASELINE, Options
from benchmarks.results import Failure, Finding, Result, Run
from benchmarks.table import table

GROUPS = {
    "against": "against",
    "layers": "layers",
    "heavy-calls": "heavy_calls",
    "neighbours": "neighbours",
    "kernels": "kernels.everything",
    "end-to-end": "end_to_end",
    "torch": "torch_training",
    "clients": "clients",
    "languages": "languages",
    "workers": "workers",
    "journal": "journal",
    "memory": "memory",
    "growth": "growth",
    "gpu": "gpu",
}
"""Modules by name. They are imported when they are run: each needs what others do not."""

DEFAULT = [name for name in GROUPS if name != "languages"]
"""The groups of a run without ``--only``. `make bench-clients` builds the drivers of the languages first."""

QUICK = [name for name in GROUPS if name not in ("against", "heavy-calls", "languages", "growth", "gpu")]
"""The groups of a quick run."""


ROOT = Path(__file__).parents[1]
IMAGES, DOCUMENT, DATA = ROOT / "docs/images", ROOT / "docs/performance.md", ROOT / "docs/data"


def main() -> None:
    """Measures, or works on what was measured before."""
    arguments = _parser().parse_args()
    if not arguments.plots and not arguments.docs:
        measure(arguments).write(arguments.out)
    run = Run.read(arguments.out)
    if arguments.plots or arguments.docs:
        from benchmarks import plots

        print(*plots.draw(run, IMAGES), sep="\n")
    if arguments.docs:
        report.rewrite(run, DOCUMENT, DATA)
        print(DOCUMENT)
    print(table(run))


def measure(arguments: argparse.Namespace) -> Run:
    """Runs the groups; prints each finding when it is measured."""
    run = Run({**machine.facts(), "against": arguments.against, "seconds": {}})
    for name in arguments.only or (QUICK if arguments.quick else DEFAULT):
        before = time.monotonic()
        for finding in _findings(name, _options(arguments)):
            run.add(finding)
            if isinstance(finding, Result | Failure):
                _tell(finding)
        run.meta["seconds"][name] = round(time.monotonic() - before)
        print(f"-- {name}: {run.meta['seconds'][name]} s", file=sys.stderr, flush=True)
    return run.beside(Run.read(arguments.out)) if arguments.merge and arguments.out.exists() else run


def _findings(name: str, options: Options) -> Iterator[Finding]:
    """A group's findings; what it raises is one of them."""
    try:
        yield from importlib.import_module(f"benchmarks.{GROUPS[name]}").run(options)
    except Exception as error:
        traceback.print_exc()
        yield Failure(name, "the group", 0, f"{type(error).__name__}: {error}")


def _tell(finding: Result | Failure) -> None:
    if isinstance(finding, Failure):
        text = f"ERROR {finding.error}"
    else:
        ratio = "" if finding.ratio is None else f"  {finding.ratio:.3g} of {finding.peer}"
        text = f"{finding.value:.4g} {finding.unit}{ratio}"
    print(f"{finding.group}: {finding.name} at {finding.n}: {text}", file=sys.stderr, flush=True)


def _options(arguments: argparse.Namespace) -> Options:
    if arguments.quick:
        return Options(heavy=False, rounds=5, seconds=0.1, sizes=arguments.sizes, largest=10**6, workers=4)
    return Options(
        rounds=arguments.rounds,
        sizes=arguments.sizes,
        dry_run=arguments.dry_run,
        against=arguments.against,
        workers=arguments.workers,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", type=_names, metavar="GROUP,...", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--sizes", type=_sizes, metavar="N,...", help="in place of each group's own")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is measured")
    parser.add_argument("--workers", type=int, default=16, help="how many train together")
    parser.add_argument("--against", default=BASELINE, metavar="REVISION", help="the earlier revision")
    parser.add_argument("--quick", action="store_true", help="up to a million, without heavy peers")
    parser.add_argument("--dry-run", action="store_true", help="the GPU's group, small and on the host")
    parser.add_argument("--merge", action="store_true", help="keep the other groups that the file has")
    parser.add_argument(
        "--plots", action="store_true", help="measure nothing, draw docs/images from the file"
    )
    parser.add_argument(
        "--docs", action="store_true", help="likewise, and rewrite docs/performance.md and docs/data"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="where figures go")
    return parser


def _names(text: str) -> Sequence[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no group {unknown[0]!r}")
    return names


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(float(size)) for size in text.split(","))


if __name__ == "__main__":
    main()
