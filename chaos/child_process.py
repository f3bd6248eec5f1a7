"""Processes of a campaign that run until their standard input ends, and print what they did."""

from __future__ import annotations

import subprocess
import sys

END_SECONDS = 60.0
"""Bound on the end of a process."""


def start(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Starts a module's program, with pipes to its standard input and output."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> bytes:
    """Closes a process' standard input, and returns what it prints until it ends.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    try:
        return process.communicate(timeout=END_SECONDS)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
