"""Available processors: the machine's, or this process's share of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
"""Where Linux tells a container's share, in the second version and in the first."""


def available_processors(groups: Path = CONTROL_GROUPS) -> int:
    """Processors that this process can keep busy at once; 1 at least.

    A share of processor time counts by its whole processors: one thread more than that would
    have all of them stopped for the rest of each period.
    """
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    share = _read_cpu_limit(groups)
    return count if share is None else max(1, min(count, int(share)))


def _read_cpu_limit(groups: Path) -> float | None:
    """Processor seconds that may be used in a second; None if there is no limit."""
    quota, _, period = _read_text(groups / "cpu.max").partition(" ")
    if not period:
        quota = _read_text(groups / "cpu/cpu.cfs_quota_us")
        period = _read_text(groups / "cpu/cpu.cfs_period_us")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max" and "-1" are no limit
    return int(quota) / int(period)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
