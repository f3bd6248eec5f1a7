"""Runs one of Flower's strategies. Needs Flower, and runs as a process in Flower's environment.

Flower asks for an older protobuf than the stubs do, so that this file imports nothing of the
repository. It reads one object from standard input,

    strategy    the class's name in flwr.server.strategy
    options     what it is made with
    attributes  what is set on it afterwards
    initial     what every element of v_t starts from, or null
    parameters  [n]
    gradients   [rounds][n]: the parameters minus the clients' mean
    rates       [rounds] of the server, or null where the strategy's own holds

and writes the parameters after each round, [rounds][n], or Flower's version where the object
is empty.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import flwr.server.strategy
import numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays


def answer(clients: Any) -> list[tuple[None, FitRes]]:
    """What each client made of the parameters, all with equally many examples."""
    okay = Status(Code.OK, "")
    return [(None, FitRes(okay, ndarrays_to_parameters([q]), 1, {})) for q in clients]


def rounds(strategy: Any, job: dict[str, Any]) -> list[list[float]]:
    """The parameters after each round of two clients, one of which stays where it was."""
    p = np.array(job["parameters"], np.float64)
    rate = "server_learning_rate" if job["strategy"] == "FedAvgM" else "eta"
    path = []
    for number, values in enumerate(job["gradients"], 1):
        if job["rates"] is not None:
            setattr(strategy, rate, job["rates"][number - 1])
        found, _ = strategy.aggregate_fit(number, answer([p, p - 2 * np.array(values)]), [])
        (p,) = parameters_to_ndarrays(found)
        path.append(p.tolist())
    return path


def run(job: dict[str, Any]) -> list[list[float]]:
    """The answer to a job."""
    start = np.array(job["parameters"], np.float64)
    make = getattr(flwr.server.strategy, job["strategy"])
    strategy = make(initial_parameters=ndarrays_to_parameters([start]), **job["options"])
    for name, value in job["attributes"].items():
        setattr(strategy, name, value)
    if job["initial"] is not None:
        strategy.v_t = [np.full_like(start, job["initial"])]
    return rounds(strategy, job)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(run(asked) if asked else version("flwr"), sys.stdout)
