"""Who computes the corpus, and how far each is from it: a line for each name, a cell for each runner."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests.conformance import corpus, names
from tests.conformance.tasks import FLOAT64, Runner, Task, dtypes, verify


@dataclasses.dataclass(frozen=True)
class Column:
    """A runner and what it computes.

    Attributes:
        title: its name.
        runner: computes a task.
        float64_only: whether it knows no other type, as the oracle.
    """

    title: str
    runner: Runner
    float64_only: bool = False

    def takes(self, dtype: np.dtype[Any]) -> bool:
        """Whether it computes in that type."""
        return dtype == FLOAT64 or not self.float64_only


@dataclasses.dataclass
class Cell:
    """What one runner made of one file.

    Attributes:
        exact: the largest error in ulp, by type, of the cases with the corpus' own tolerance.
        wide: the same of the cases with a tolerance of their own.
        cases: names of the cases that passed in every type.
        gaps: what is wrong, as sentences.
    """

    exact: dict[str, float] = dataclasses.field(default_factory=dict)
    wide: dict[str, float] = dataclasses.field(default_factory=dict)
    cases: set[str] = dataclasses.field(default_factory=set)
    gaps: list[str] = dataclasses.field(default_factory=list)

    def text(self) -> str:
        """The number of cases and the largest errors in ulp, float32's before float64's."""
        errors = [
            ulps(error) + ("*" if name in self.wide else " ")
            for name in ("float32", "float64")
            if (error := self.exact.get(name, self.wide.get(name))) is not None
        ]
        return f"{len(self.cases):>3}{'!' if self.gaps else ' '}" + "".join(f"{e:>8}" for e in errors)


def ulps(error: float) -> str:
    """An error for people."""
    return f"{error:.1f}" if error < 1000 else f"{error:.0e}".replace("e+0", "e")


def fill(column: Column, file: corpus.VectorFile) -> Cell:
    """Runs all cases of a file."""
    cell = Cell()
    for case in file.cases:
        run = [
            attempt(column, Task(file.family, file.name, case, dtype), cell)
            for dtype in dtypes(file.family)
            if column.takes(dtype)
        ]
        if run and all(run):
            cell.cases.add(case.name)
    return cell


def attempt(column: Column, task: Task, cell: Cell) -> bool:
    """Runs one task; whatever goes wrong is a gap."""
    try:
        found = verify(column.runner, task)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        cell.gaps.append(f"{column.title}: {task.id}: {text[:300]}")
        return False
    name = task.dtype.name
    errors = cell.wide if task.case.tolerance[name] > corpus.EXACT[name] else cell.exact
    errors[name] = max(found.ulp, errors.get(name, 0.0))
    return True


@dataclasses.dataclass(frozen=True)
class Line:
    """One name of a family.

    Attributes:
        family: the family.
        name: the name.
        count: how many cases there are.
        cells: by title of the column.
        gaps: what is wrong, the cells' gaps among it.
    """

    family: str
    name: str
    count: int
    cells: Mapping[str, Cell]
    gaps: Sequence[str]


def lines(columns: Sequence[Column], families: Sequence[str] = corpus.FAMILIES) -> Iterator[Line]:
    """The table, line by line as it is computed: names without vectors last in their family."""
    for family in families:
        wanted, recorded = names.list_required(family), names.list_recorded(family)
        for name in sorted(recorded):
            file = corpus.load(corpus.VECTORS / family / f"{name}.json")
            yield line(columns, file, name in wanted)
        for name in sorted(wanted - recorded):
            yield Line(family, name, 0, {}, [f"{family}/{name} has no vectors"])


def line(columns: Sequence[Column], file: corpus.VectorFile, known: bool) -> Line:
    """The line of a vector file."""
    gaps = [] if known else [f"{file.family}/{file.name} is unknown to contract and server"]
    if not file.cases:
        gaps.append(f"{file.family}/{file.name} has no cases")
    cells = {}
    for column in columns:
        cell = cells[column.title] = fill(column, file)
        gaps += cell.gaps
        if len(cell.cases) < len(file.cases) and not cell.gaps:
            gaps.append(f"{column.title}: {file.family}/{file.name}: not all cases were run")
    return Line(file.family, file.name, len(file.cases), cells, gaps)
