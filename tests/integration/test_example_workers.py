"""The example with four worker processes, shortened: it trains, draws, and leaves no worker running."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_workers_train_and_are_compared(suffix: str, tmp_path: Path) -> None:
    picture = tmp_path / f"loss.{suffix}"
    modes = ["sync-3-of-4", "rounds"] if suffix == "png" else ["async"]
    command = [sys.executable, "-m", "workers", "--seconds", "5", "--picture", str(picture), "--mode", *modes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "examples")}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = dict(re.findall(r"^([a-z0-9-]+) +\d+ +\d+ +([\d.]+) +[\d.]+%$", ended.stdout, re.M))
    assert list(rows) == modes
    # It begins at 2.73; a worker is killed before the first half is over.
    assert all(0 < float(loss) < 2.6 for loss in rows.values()), ended.stdout
    assert ended.stderr == ""
    assert picture.stat().st_size > 10_000
