"""Computes cases with the oracle, without the frameworks beside it.

The rows of ``sources/`` know which of the oracle's functions, with which numbers, a case
stands for. Their modules import the frameworks, which are not at hand where the corpus is
only read; so stand-ins lie in their place while the rows are made. A stand-in answers to any
attribute and call and computes nothing. No number of one can pass unnoticed: a row is taken
only where it asks for what the corpus recorded.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar

from tests.conformance import generate
from tests.conformance.sources.row import Row
from tests.conformance.tasks import Answer, Task

FRAMEWORKS = ("jax", "keras", "optax", "torch", "torchvision")
SOURCES = "tests.conformance.sources."


class StandIn:
    """Anything that a framework has."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getitem__(self, key: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __float__(self) -> float:
        return float("nan")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()


class StandInModule(ModuleType):
    """A module of a framework."""

    __path__: ClassVar[list[str]] = []  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        return getattr(StandIn(), name)


class StandIns(MetaPathFinder, Loader):
    """Finds the frameworks' modules, whatever they are called."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        framework = fullname.partition(".")[0] in FRAMEWORKS
        return ModuleSpec(fullname, self, is_package=True) if framework else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextlib.contextmanager
def without_frameworks() -> Iterator[None]:
    """Imports of frameworks find stand-ins; what was imported meanwhile is forgotten."""
    before = dict(sys.modules)
    finder = StandIns()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in sys.modules.keys() - before.keys():
            if name.startswith(SOURCES) or name.partition(".")[0] in FRAMEWORKS:
                del sys.modules[name]


class Oracle:
    """A runner of cases by the scalar oracle, in float64."""

    def __init__(self) -> None:
        with without_frameworks():
            self._rows = {(row.family, row.file, row.case): row for row in generate.sources()}

    def __call__(self, task: Task) -> Answer:
        row = self._rows.get((task.family, task.file, task.case.name))
        assert row is not None, "no source has this case"
        assert asks_for(row, task), "the source asks for something else than what is recorded"
        return row.oracle()


def asks_for(row: Row, task: Task) -> bool:
    """Whether the case was recorded from this row."""
    return (row.source, row.spec, row.inputs) == (task.case.source, task.case.spec, task.case.inputs)
