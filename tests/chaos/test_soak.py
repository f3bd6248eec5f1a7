"""The short form of ``make soak``."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.soak.__main__ import SETTINGS, flat, is_fast, lines, tokens_file
from chaos.soak.campaign import soak
from chaos.soak.trainee import PATIENCE
from tests.support.server import running_server


@pytest.mark.slow
def test_restarts_of_the_network_change_nothing(tmp_path: Path) -> None:
    with (
        tokens_file(str(tmp_path)) as tokens,
        running_server("numpy", data_dir=tmp_path / "data", tokens_file=tokens, **SETTINGS) as server,
    ):
        found = soak(server, clients=8, seconds=15, seed=5)
        assert server.stop() == 0
    print("\n".join(lines(found)))
    assert found.wrong == []
    assert flat(found)
    assert is_fast(found)
    assert len(found.attacks) == 6
    assert found.stall < PATIENCE
    assert set(found.faults) == {"delay", "cut", "black hole", "half open"}
    assert 0 < found.journaled < found.steps
    assert 0 < found.over_data < found.steps
    assert found.compared > 8
    assert found.replayed > 0
