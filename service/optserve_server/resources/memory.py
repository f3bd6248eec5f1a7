"""Available memory: the machine's, or the container's limit."""

from __future__ import annotations

import os
from pathlib import Path

_CONTROL_GROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux tells a container's limit, in the second and in the first version."""


def memory_limit() -> int:
    """Bytes of memory that this process can have at most."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [limit for path in _CONTROL_GROUPS if (limit := _read_byte_limit(path)) is not None]
    return min([physical, *limits])


def resident_bytes() -> int:
    """Bytes of memory that this process has now; 0 if the system does not report it."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _read_byte_limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
