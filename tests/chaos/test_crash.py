"""The short form of ``make crash``."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.crash import RANDOM, TERMINATED, crash
from optserve_server.storage.failpoints import NAMES


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    tally = crash(20, 20, tmp_path)
    print("\n".join(tally.lines()))
    assert tally.kills.total() == 20
    assert set(tally.kills) >= {*NAMES, RANDOM, TERMINATED}
    assert tally.answered > 100
    assert min(tally.over_grpc, tally.over_data) > 20
