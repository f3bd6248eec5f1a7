"""The short form of ``make soak``."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.soak.__main__ import flat, lines
from chaos.soak.campaign import soak
from chaos.soak.trainee import PATIENCE
from tests.support.server import running_server


@pytest.mark.slow
def test_restarts_of_the_network_change_nothing(tmp_path: Path) -> None:
    with running_server("numpy", data_dir=tmp_path, journal_bytes="64MiB", log_level="error") as server:
        found = soak(server, clients=8, seconds=8, seed=5)
        assert server.stop() == 0
    print("\n".join(lines(found)))
    assert found.wrong == []
    assert flat(found)
    assert found.stall < PATIENCE
    assert set(found.faults) == {"delay", "cut", "black hole", "half open"}
    assert 0 < found.journaled < found.steps
    assert 0 < found.over_data < found.steps
    assert found.compared > 8
    assert found.replayed > 0
