"""Journalled steps in shared memory: what is recorded is what was applied."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import step_messages
from tests.recovery.test_durability import LARGE, adam, kill, running, state
from tests.support.shared_memory import map_memory


def test_a_gradient_that_changes_while_it_is_taken(tmp_path: Path) -> None:
    """A client that scribbles changes its own step, and no record of it."""
    name, over = "sessions/a", threading.Event()
    rng = np.random.default_rng(1)
    with running(tmp_path) as (server, client):
        client.create(LARGE, adam(), session_id="a")
        shared = client.sessions.ShareMemory(pb.ShareMemoryRequest(name=name), timeout=20)
        plan = pb.StepPlan(session=name, region=shared.region)
        with map_memory(shared) as (gradients, *_):
            values = gradients.view(np.float32)

            def scribble() -> None:
                while not over.is_set():
                    start = int(rng.integers(values.size - 1000))
                    values[start : start + 1000] = rng.standard_normal(1000, np.float32)

            thread = threading.Thread(target=scribble)
            thread.start()
            try:
                for number in range(1, 41):
                    (answer,) = client.stream(plan, step_messages(b"", gradient_id=number))
                    assert answer.result.durable_step == number
            finally:
                over.set()
                thread.join(20)
        before = state(client, name)
        kill(server)
    with running(tmp_path) as (_, client):
        assert state(client, name) == before
