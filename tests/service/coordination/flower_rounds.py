"""Rounds that Flower closed, and what clients sent for them.

    python -m tests.service.coordination.flower_rounds [--check]

runs Flower and writes them again, or compares them; `make conformance-sources` does so.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.conformance.sources.flower_process import ask

FILE = Path(__file__).with_name("flower_rounds.json")
SIZE, CLIENTS, ROUNDS = 40, 20, 4
SPREAD = 0.02
"""Standard deviation of a change, of parameters between 0.5 and 2."""

ADAM = {"eta": 0.0078125, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FlowerRounds:
    """Rounds of one strategy.

    Attributes:
        strategy: FedAvg or FedAdam.
        dtype: of the parameters.
        parameters: before the first round, [n].
        changes: what training added, [rounds][clients][n].
        examples: of each client.
        path: Flower's parameters after each round, [rounds][n].
    """

    strategy: str
    dtype: str
    parameters: list[float]
    changes: list[list[list[float]]]
    examples: list[int]
    path: list[list[float]]

    def list_sent(self, number: int) -> list[Array]:
        """What each client has after its training in a round, from 0: what Flower is sent."""
        before = np.array(self.path[number - 1] if number else self.parameters, self.dtype)
        return [before + np.array(change, self.dtype) for change in self.changes[number]]

    def before(self, number: int) -> Array:
        """Flower's parameters before a round, from 0."""
        return np.array(self.path[number - 1] if number else self.parameters, self.dtype)


def load() -> list[FlowerRounds]:
    """What was written."""
    return [FlowerRounds(**one) for one in json.loads(FILE.read_text())]


def draw(strategy: str, dtype: str, seed: int) -> dict[str, Any]:
    """A job for Flower."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], SIZE)
    parameters = (signs * rng.uniform(0.5, 2.0, SIZE)).astype(dtype)
    count = 1 if strategy == "FedAvg" else ROUNDS
    changes = (SPREAD * rng.standard_normal((count, CLIENTS, SIZE))).astype(dtype)
    return {
        "strategy": strategy,
        "dtype": dtype,
        "parameters": parameters.tolist(),
        "changes": changes.tolist(),
        "examples": rng.integers(1, 100, CLIENTS).tolist(),
        "options": {} if strategy == "FedAvg" else ADAM,
    }


TOLERANCE_ULPS = 32
"""Difference of parameters that Flower computes on two processors, in units in the last place."""


def agree(found: list[dict[str, Any]], written: list[dict[str, Any]]) -> bool:
    """Whether two records have the same jobs, and the same rounds but for rounding."""
    jobs = [[{**one, "path": None} for one in record] for record in (found, written)]
    return jobs[0] == jobs[1] and all(
        np.allclose(one["path"], other["path"], rtol=TOLERANCE_ULPS * np.finfo(one["dtype"]).eps, atol=0)
        for one, other in zip(found, written, strict=True)
    )


def main() -> int:
    """Writes them again, or compares; returns 1 if they differ."""
    found = []
    for seed, (strategy, dtype) in enumerate(
        [("FedAvg", "float32"), ("FedAvg", "float64"), ("FedAdam", "float64")]
    ):
        job = draw(strategy, dtype, seed)
        path = ask(job)
        del job["options"]
        found.append({**job, "path": path})
    if "--check" in sys.argv[1:]:
        return int(not agree(found, json.loads(FILE.read_text())))
    FILE.write_text(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
