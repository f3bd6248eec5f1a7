"""A client that replaces its session, and kills itself before or after one of its calls on the way.

python -m tests.adapters.killed_replacement ADDRESS SESSION_ID add|load before|after NUMBER
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch

from optserve import optimizers as rules
from optserve.client import Client
from optserve.session import SessionHandle
from optserve.snapshots import Snapshots
from optserve.torch import RemoteOptimizer

CALLS = (
    (Client, "create_session"),
    (Snapshots, "export"),
    (SessionHandle, "delete"),
    (Client, "import_session"),
    (SessionHandle, "update"),
    (Snapshots, "fork"),
)
"""Methods that change what the server has, or read it."""

NUMBER_OF_CALLS = 8
"""Calls of a replacement: create, export, delete, import, update, delete, fork and delete."""


def make_parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.full((4,), float(i))) for i in range(2)]


def take_step(parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> None:
    for i, parameter in enumerate(parameters):
        parameter.grad = torch.linspace(-1, 1, 4) * (step + i + 1)
    optimizer.step()


def make_loaded_state() -> dict[str, Any]:
    """The state of torch's own optimizer after three steps."""
    parameters = make_parameters()
    local = torch.optim.Adam(parameters, lr=0.1)
    for step in range(3):
        take_step(parameters, local, step)
    return local.state_dict()


def arm(when: str, number: int) -> None:
    """Kills this process before or after the call of that number."""
    count = 0

    def wrap(method: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            mine = count
            if (when, mine) == ("before", number):
                os.kill(os.getpid(), signal.SIGKILL)
            result = method(*arguments, **options)
            if (when, mine) == ("after", number):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for owner, name in CALLS:
        setattr(owner, name, wrap(getattr(owner, name)))


def main() -> None:
    address, session_id, change, when, number = sys.argv[1:]
    parameters = make_parameters()
    known = parameters if change == "load" else parameters[:1]
    optimizer = RemoteOptimizer(known, rules.Adam(learning_rate=0.1), server=address, session_id=session_id)
    for step in range(2):
        take_step(known, optimizer, step)
    arm(when, int(number))
    if change == "load":
        optimizer.load_state_dict(make_loaded_state())
    else:
        # Reading the state is an export, which is the first call.
        optimizer.add_param_group({"params": parameters[1:]})
    optimizer.session  # noqa: B018 - replaces it


if __name__ == "__main__":
    main()
