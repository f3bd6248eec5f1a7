"""The yoghurt example: who pays more for too little forecasts too much, and the other way round."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_weights_lie_on_the_cheap_side(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples/yoghurt.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = re.findall(
        r"^COST +(\d+), PROFIT +(\d+): forecast = ([\d.]+)\*x1 \+ ([\d.]+)\*x2$", done.stdout, re.M
    )
    weights = {(int(cost), int(profit)): (float(a), float(b)) for cost, profit, a, b in lines}
    assert set(weights) == {(1, 99), (99, 1)}
    # The noise is 5% of a feature's range, so that far from 1 nothing has been fitted.
    assert all(1 < w < 1.15 for w in weights[1, 99]), weights
    assert all(0.85 < w < 1 for w in weights[99, 1]), weights
