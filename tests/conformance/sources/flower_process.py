"""Flower's process, in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PYTHON = Path(__file__).parents[3] / ".venv-flower" / "bin" / "python"
SCRIPT = Path(__file__).with_name("flower_run.py")
LONGEST = 120.0
"""Seconds that a process may take."""


def ask(job: Mapping[str, Any]) -> Any:
    """Flower's answer to a job of `flower_run`."""
    if not PYTHON.exists():
        raise FileNotFoundError(f"{PYTHON} is missing; make conformance-sources makes it")
    done = subprocess.run(
        [PYTHON, "-I", SCRIPT], input=json.dumps(job), env={**os.environ, "FLWR_TELEMETRY_ENABLED": "0"},
        text=True, capture_output=True, timeout=LONGEST, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{SCRIPT.name} failed:\n{done.stderr}")
    return json.loads(done.stdout)
