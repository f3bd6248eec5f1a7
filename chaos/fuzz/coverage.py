"""Fuzzing of parsers with coverage feedback, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PARSERS = ("frames", "creations", "steps", "imports", "journals", "expressions")
"""Names of the parsers in `chaos.fuzz.parsers`, which needs atheris."""

FINDINGS = Path("build/fuzz")
"""Where inputs are that were findings."""

LONGEST_RUN_S = 3600.0
"""Bound on the fuzzing of one parser."""


def fuzz_parser(name: str, runs: int, seed: int, findings: Path = FINDINGS) -> str:
    """Fuzzes a parser; returns a description of what it found, or nothing.

    Args:
        name: of the parser.
        runs: inputs.
        seed: of the mutations.
        findings: folder for the input of a finding.
    """
    findings.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "chaos.fuzz.parsers", name, str(runs), str(seed), str(findings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_RUN_S, check=False)
    return "" if done.returncode == 0 else f"{name}: status {done.returncode}\n{done.stderr[-4000:]}"
