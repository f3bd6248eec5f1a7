"""The demo's data: rows of numbers with a label, cut into a part to train on and a part to test on."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

FOLDER = Path(__file__).parents[2] / "data"
SPECIES = ("setosa", "versicolor", "virginica")


@dataclass(frozen=True)
class Examples:
    """Examples of a classification.

    Attributes:
        inputs: float32, one row per example.
        labels: int64, the class of each row.
    """

    inputs: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Array) -> Examples:
        """The examples of these rows."""
        return Examples(self.inputs[rows], self.labels[rows])

    def batches(self, size: int) -> Iterator[Examples]:
        """Runs of ``size`` examples; the last one may be shorter."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def split(self, test_count: int, seed: int) -> tuple[Examples, Examples]:
        """Shuffles, and cuts into a part to train on and ``test_count`` to test on."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(order[:-test_count]), self.take(order[-test_count:])


def iris() -> Examples:
    """150 flowers: four lengths in cm, three species."""
    with (FOLDER / "iris.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    inputs = np.array([row[:4] for row in rows], dtype=np.float32)
    return Examples(inputs, np.array([SPECIES.index(row[4]) for row in rows]))


def digits() -> Examples:
    """1797 handwritten digits: 64 pixels, scaled to 0 to 1, ten classes."""
    with gzip.open(FOLDER / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return Examples((table[:, :-1] / 16).astype(np.float32), table[:, -1].astype(np.int64))
