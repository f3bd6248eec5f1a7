"""A contender's own server process: it prints a number, its port, and ends with its input."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

STOP_SECONDS = 10.0


@contextlib.contextmanager
def serving(module: str, *arguments: object) -> Iterator[int]:
    """Runs a module of this package as a server until the block ends; gives its port."""
    command = [sys.executable, "-m", f"benchmarks.contenders.{module}", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        for stop in (None, process.terminate, process.kill):
            if stop is not None:
                stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
                break
        process.stdout.close()
