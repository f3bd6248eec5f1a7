"""The lecture's yoghurt: a forecast that would rather be wrong on the cheap side.

    python examples/yoghurt.py

Sales are the sum of two features and a little noise, so a fair forecast gives each of them
the weight 1. But a litre made too many costs COST, and one too few loses PROFIT. The loss
says so, as an expression that the server differentiates; this client only multiplies
matrices. Where a lost sale is dearer the weights end above 1, where waste is, below.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import optserve
from demo.server import running_server
from optserve import losses, optimizers, schedules

Array: TypeAlias = npt.NDArray[Any]

YOGHURT = "where(y_pred > y_true, COST*(y_pred - y_true), PROFIT*(y_true - y_pred))"
LOG = Path("build/yoghurt/server.log")
DAYS = 32
STEPS = 500
SEED = 23455


def sales() -> tuple[Array, Array]:
    """Two features of each day, (days, 2), and the litres sold, (days, 1)."""
    rng = np.random.default_rng(SEED)
    features = rng.random((DAYS, 2), dtype=np.float32)
    noise = rng.uniform(-0.05, 0.05, DAYS).astype(np.float32)
    return features, (features.sum(axis=1) + noise)[:, None]


def fit(client: optserve.Client, cost: float, profit: float) -> Array:
    """The weights of the two features after training under these costs."""
    features, sold = sales()
    loss = losses.Custom(YOGHURT, constants={"COST": cost, "PROFIT": profit})
    session = client.create_session(
        {"weights": np.zeros((2, 1), np.float32)},
        optimizers.RMSprop(),
        schedule=schedules.Exponential(0.05, decay_steps=60, decay_rate=0.5),
    )
    weights = session.pull()["weights"]
    for _ in range(STEPS):
        slope = client.loss(loss, features @ weights, sold).gradient
        weights = session.step({"weights": features.T @ slope}, pull=True).parameters["weights"]
    session.delete()
    return weights.ravel()


def main() -> int:
    """Trains twice on a server of its own, and prints the weights; the exit code."""
    print("sales = x1 + x2 + noise")
    with running_server(LOG) as address, optserve.connect(address) as client:
        for cost, profit in ((1, 99), (99, 1)):
            first, second = fit(client, cost, profit)
            print(f"COST {cost:2}, PROFIT {profit:2}: forecast = {first:.3f}*x1 + {second:.3f}*x2")
    return 0


if __name__ == "__main__":
    sys.exit(main())
