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
is empty. In place of gradients, it may have

    changes     [rounds][clients][n]: what training adds to the parameters, in their type
    examples    [clients]: how many examples each client has
    dtype       type of the parameters
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import flwr.server.strategy
import numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays


def answer(clients: Any, examples: Any = (1, 1)) -> list[tuple[None, FitRes]]:
    """What each client made of the parameters, with its number of examples."""
    okay = Status(Code.OK, "")
    both = zip(clients, examples, strict=True)
    return [(None, FitRes(okay, ndarrays_to_parameters([q]), count, {})) for q, count in both]


def run_federated(strategy: Any, job: dict[str, Any], p: Any) -> list[list[float]]:
    """The parameters after each round of clients that change them."""
    path = []
    for number, changes in enumerate(job["changes"], 1):
        clients = [p + np.array(change, p.dtype) for change in changes]
        found, _ = strategy.aggregate_fit(number, answer(clients, job["examples"]), [])
        (p,) = parameters_to_ndarrays(found)
        path.append(p.tolist())
    return path


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
    start = np.array(job["parameters"], job.get("dtype", "float64"))
    make = getattr(flwr.server.strategy, job["strategy"])
    strategy = make(initial_parameters=ndarrays_to_parameters([start]), **job["options"])
    if "changes" in job:
        return run_federated(strategy, job, start)
    for name, value in job["attributes"].items():
        setattr(strategy, name, value)
    if job["initial"] is not None:
        strategy.v_t = [np.full_like(start, job["initial"])]
    return rounds(strategy, job)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(run(asked) if asked else version("flwr"), sys.stdout)
