"""Runs the frameworks and the oracle and records, or checks, the corpus.

    python -m tests.conformance.generate --write   rewrites vectors/ and REPORT.md
    python -m tests.conformance.generate --check   fails where they would change

Needs the frameworks (Keras on JAX, PyTorch, optax), and Flower in an environment beside them.
Reading the corpus does not.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"  # Keras looks while it is imported

from tests.conformance import corpus
from tests.conformance.comparator import BY_ELEMENT, difference, flat
from tests.conformance.corpus import Case, VectorFile
from tests.conformance.sources.row import Row

REPORT = Path(__file__).parent / "REPORT.md"

REPRODUCED = 1e-13
"""Relative tolerance of recorded values that are computed again on another machine."""

SMALLEST_PARAMETER = 0.05
"""Trajectories keep this distance from 0 unless they are 0, so that a relative error means something."""


def sources() -> list[Row]:
    """The tables of all sources."""
    from tests.conformance.sources import (
        activation_source,
        flower_source,
        keras_source,
        later_source,
        layers_source,
        lecture_source,
        matrix_source,
        metrics_source,
        optax_source,
        schedule_source,
        sparse_source,
        steps_source,
        torch_source,
    )
    from tests.conformance.sources.losses import (
        custom_source,
        further_source,
        loss_source,
        torchvision_source,
    )

    found = (
        keras_source, torch_source, optax_source, lecture_source, activation_source, loss_source,
        torchvision_source, layers_source, metrics_source, later_source, schedule_source, custom_source,
        matrix_source, sparse_source, steps_source, flower_source, further_source,
    )  # fmt: skip
    return [row for source in found for row in source.rows()]


def compute(row: Row) -> tuple[Case, float]:
    """The case and the oracle's largest relative difference from its framework."""
    oracle = row.oracle()
    expected = row.framework() if row.framework else oracle
    if row.family == "optimizers" or row.family == "gradient":
        reached = flat(expected["parameters"])
        assert abs(reached[reached != 0]).min() > SMALLEST_PARAMETER, f"{row.file}-{row.case} nears 0"
    case = Case(row.case, row.source, row.spec, row.inputs, expected, dict(row.tolerance), row.note)
    return case, apart(row.family, oracle, expected)


def apart(family: str, actual: Any, expected: Any) -> float:
    """The largest relative difference of two answers; infinite where their parts differ."""
    if set(actual) != set(expected):
        return float("inf")
    return max(
        difference(actual[part], expected[part], "float64", by_element=family in BY_ELEMENT).relative
        for part in expected
    )


def group(computed: Iterable[tuple[Row, Case]]) -> list[VectorFile]:
    """Cases by file, in the order of the tables."""
    files: dict[tuple[str, str], list[Case]] = {}
    for row, case in computed:
        files.setdefault((row.family, row.file), []).append(case)
    for (family, name), cases in files.items():
        assert len({case.name for case in cases}) == len(cases), f"two cases of {family}/{name} share a name"
    return [VectorFile(family, name, tuple(cases)) for (family, name), cases in files.items()]


def report(rows: Sequence[tuple[Row, float]]) -> str:
    """REPORT.md: each case with the oracle's distance from its source."""
    lines = [
        "# The oracle against the frameworks",
        "",
        "Written by `make conformance-sources`. Each line is a case of the corpus with the largest",
        "relative difference, over all its values in float64, between the scalar oracle in `oracle/`",
        "and the framework that the case names. Cases of the sources `lecture` and `paper` have no",
        "framework: there the oracle itself is recorded.",
        "",
        *versions(),
    ]
    for family in corpus.FAMILIES:
        lines += ["", f"## {family}", "", "| file | case | source | difference |", "|---|---|---|---|"]
        for row, apart in rows:
            if row.family == family:
                shown = "—" if row.framework is None else f"{apart:.0e}"
                lines.append(f"| {row.file} | {row.case} | {row.source} | {shown} |")
    return "\n".join(lines) + "\n"


def cases_of(text: str) -> list[str]:
    """The lines of a report without the figures, which a machine may round otherwise."""
    return [line.rsplit("|", 2)[0] for line in text.splitlines() if line.startswith("|")]


def versions() -> list[str]:
    """The versions of the frameworks as a list."""
    import jax
    import keras
    import optax
    import torch

    from tests.conformance.sources import flower_source

    found = {"Keras": keras, "JAX": jax, "PyTorch": torch, "optax": optax}
    shown = [f"- {name} {module.__version__.split('+')[0]}" for name, module in found.items()]
    return [*shown, f"- Flower {flower_source.version()}"]


def changes(files: Sequence[VectorFile]) -> list[str]:
    """What recording would change, as sentences."""
    found = []
    recorded = {path for family in corpus.FAMILIES for path in (corpus.VECTORS / family).glob("*.json")}
    for path in sorted(recorded - {file.path for file in files}):
        found.append(f"{path} has no source")
    for file in files:
        if file.path not in recorded:
            found.append(f"{file.path} is missing")
        else:
            found += list_altered(file, corpus.load(file.path))
    return found


def list_altered(now: VectorFile, before: VectorFile) -> list[str]:
    """The cases of one file that differ from the recorded ones."""
    name = f"{now.family}/{now.name}"
    if [case.name for case in now.cases] != [case.name for case in before.cases]:
        return [f"{name} has other cases"]
    found = []
    for new, old in zip(now.cases, before.cases, strict=True):
        if (new.source, new.spec, new.inputs, new.tolerance, new.note) != (
            old.source, old.spec, old.inputs, old.tolerance, old.note
        ):  # fmt: skip
            found.append(f"{name}: {new.name} asks something else")
        elif (distance := apart(now.family, new.expected, old.expected)) > REPRODUCED:
            found.append(f"{name}: {new.name} differs by {distance:.2g} from what is recorded")
    return found


def write(files: Sequence[VectorFile]) -> None:
    """Records the corpus, and removes files that no source names. Keeps what is unchanged."""
    for family in corpus.FAMILIES:
        for path in (corpus.VECTORS / family).glob("*.json"):
            if path not in {file.path for file in files}:
                path.unlink()
    for file in files:
        if file.path.exists() and not list_altered(file, corpus.load(file.path)):
            continue
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_text(corpus.dump(file), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="tests.conformance.generate", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="compare only")
    mode.add_argument("--write", action="store_true", help="record")
    options = parser.parse_args(arguments)
    computed = [(row, *compute(row)) for row in sources()]
    far = [
        f"{row.family}/{row.file}: the oracle and {row.source} differ by {distance:.2g} in {row.case}"
        for row, _, distance in computed
        if distance > row.tolerance["float64"]
    ]
    from tests.conformance.parity import public_names
    from tests.conformance.sources import half_source, initializer_source, non_finite_source

    far += initializer_source.problems() + non_finite_source.problems()
    far += public_names.problems() + half_source.problems()
    files = group((row, case) for row, case, _ in computed)
    text = report([(row, distance) for row, _, distance in computed])
    if options.write:
        write(files)
        REPORT.write_text(text, encoding="utf-8")
        problems = far
    else:
        problems = far + changes(files)
        if not REPORT.exists() or cases_of(REPORT.read_text(encoding="utf-8")) != cases_of(text):
            problems.append(f"{REPORT} lists other cases")
    for problem in problems:
        print(problem, file=sys.stderr)
    worst = max((distance for *_, distance in computed), default=0.0)
    print(f"{len(computed)} cases in {len(files)} files; oracle against frameworks: {worst:.1e} at most")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
