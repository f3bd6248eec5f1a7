"""What is to be computed, and how any runner of it is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.conformance import corpus
from tests.conformance.comparator import Difference, judge
from tests.conformance.corpus import Case

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

WITHOUT_ARRAYS = {
    "schedules": "rates are float64 whatever the parameters are",
    "layers": "counts are whole numbers",
    "metrics": "what watches them counts in float64",
}
"""Families that are computed in one type alone, and why."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A case, computed in one element type."""

    family: str
    file: str
    case: Case
    dtype: np.dtype[Any]

    @property
    def id(self) -> str:
        """What test reports call it."""
        return f"{self.family}-{self.file}-{self.case.name}-{self.dtype}"

    def array(self, name: str) -> npt.NDArray[Any]:
        """An input as an array; targets of whole numbers alone are class indices."""
        value = np.array(self.case.inputs[name])
        indices = name == "target" and value.dtype.kind == "i"
        return value.astype(np.int64 if indices else self.dtype)


Answer = Mapping[str, Any]
"""The parts of an answer, named as in the corpus."""

Runner = Callable[[Task], Answer]
"""Whatever computes cases: an executor, a server, a client."""


def tasks(*families: str) -> Iterator[Task]:
    """Every case of the corpus, or of some families, in each type."""
    for family in families or corpus.FAMILIES:
        for file in corpus.load_family(family):
            for case in file.cases:
                for dtype in dtypes(family):
                    yield Task(family, file.name, case, dtype)


def dtypes(family: str) -> tuple[np.dtype[Any], ...]:
    """The types that a family is computed in."""
    return (FLOAT64,) if family in WITHOUT_ARRAYS else (FLOAT32, FLOAT64)


def verify(runner: Runner, task: Task) -> Difference:
    """Computes a task and judges the answer.

    Raises:
        AssertionError: the answer is not what the corpus records.
    """
    answer, case = runner(task), task.case
    for part, value in answer.items():
        if isinstance(value, np.ndarray) and part in case.expected:
            wanted = np.shape(case.expected[part])
            assert value.shape == wanted, f"{part} has the shape {value.shape} where {wanted} is expected"
            assert value.dtype == task.dtype, f"{part} is {value.dtype} where {task.dtype} is expected"
    return judge(answer, case.expected, case.tolerance[task.dtype.name], task.dtype, task.family)
