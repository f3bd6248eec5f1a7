"""How much Python a small step runs on a live server: what keeps a step fast on any machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from tests.integration.client import Client, name_arrays, plan_message, sgd
from tests.integration.counted_server import VARIABLE
from tests.support.server import running_server

VALUES = {"w": np.zeros(1000, np.float32)}
FEW, MANY = 20, 120
"""The two step counts whose difference gives the cost of one step."""

BY_TIME = "loop_lag.py", "arrivals.py"
"""What measures by the clock: on a busy machine, more often than a step is taken."""

Step = Callable[[Client, str, int], object]


def calls_of_a_step(tmp_path: Path, step: Step) -> tuple[float, int]:
    """Calls of one step, and the files that they are in; names such as <string> are no files."""
    counts = []
    for steps in (FEW, MANY):
        path = tmp_path / f"{steps}.json"
        with running_server(
            "numba", module="tests.integration.counted_server", variables={VARIABLE: str(path)}
        ) as server:
            with Client(server.address) as client:
                name = client.create(VALUES, sgd(0.5)).name
                step(client, name, steps)
            assert server.stop() == 0
        counts.append(json.loads(path.read_text()))
    few, many = counts
    of_a_step = {file: (many[file] - few.get(file, 0)) / (MANY - FEW) for file in many}
    found = {file: calls for file, calls in of_a_step.items() if calls > 0.5 and not file.endswith(BY_TIME)}
    return sum(found.values()), sum(not file.startswith("<") for file in found)


def stream_steps(client: Client, name: str, steps: int) -> None:
    data = VALUES["w"].tobytes()
    messages = [plan_message(name, worker="w", pull=pb.PullOptions())]
    for number in range(steps):
        start = pb.StepStart(sequence=number + 1, byte_count=len(data))
        messages.append(pb.StepStreamRequest(step=start, chunk=tensor_pb2.Chunk(data=data)))
    assert len(client.exchange(messages)) == 1 + steps


def unary(client: Client, name: str, steps: int) -> None:
    for number in range(steps):
        options = pb.StepOptions(pull=pb.PullOptions(), worker="w", sequence=number + 1)
        client.sessions.Step(pb.StepRequest(name=name, options=options, gradients=name_arrays(VALUES)))


def test_a_small_streamed_step(tmp_path: Path) -> None:
    calls, files = calls_of_a_step(tmp_path, stream_steps)
    assert calls <= 70
    assert files <= 20


def test_a_small_unary_step(tmp_path: Path) -> None:
    calls, files = calls_of_a_step(tmp_path, unary)
    # Seven of the files are asyncio's and gRPC's own.
    assert calls <= 148
    assert files <= 28
