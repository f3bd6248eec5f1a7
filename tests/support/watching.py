"""What another process holds, as the kernel tells it, and waiting for what it is about to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def descriptors_of(pid: int) -> int:
    """All open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits for what another process is about to do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
