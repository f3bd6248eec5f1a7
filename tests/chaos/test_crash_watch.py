"""The short form of ``make crash-watch``."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.crash_watch import crash_watch


@pytest.mark.slow
def test_ten_kills_lose_and_double_no_point(tmp_path: Path) -> None:
    tally = crash_watch(10, 10, tmp_path)
    print("\n".join(tally.lines()))
    assert (tally.server_kills, tally.watch_kills, tally.torn) == (5, 5, 1)
    assert tally.steps > 30
    assert tally.files > 3
