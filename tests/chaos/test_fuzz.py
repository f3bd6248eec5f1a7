"""The short form of ``make fuzz``."""

from __future__ import annotations

import asyncio

import pytest

from chaos.fuzz.__main__ import LIMITS, MOST_GROWTH
from chaos.fuzz.campaign import run
from tests.support.server import running_server


@pytest.mark.slow
def test_hostile_messages_change_nothing_and_learn_nothing() -> None:
    with running_server("numpy", **LIMITS) as server:
        found = asyncio.run(run(server, messages=3000, seed=7))
        assert server.stop() == 0
    assert found.wrong == []
    assert found.messages >= 3000
    assert found.steps >= 20
    assert found.memory[1] - found.memory[0] < MOST_GROWTH
    assert found.descriptors[1] <= found.descriptors[0]
    assert found.over_data > 50
    assert len(found.attacks) == 6
    kinds = {kind for kind, _ in found.codes}
    assert kinds >= {"noise", "mutated", "shapes", "expressions", "frames", "snapshots", "imported"}
    assert kinds >= {"stranger", "bad ticket", "used ticket", "data lengths", "data mutations"}
