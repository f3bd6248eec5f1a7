"""Failpoints: named places where `make crash` kills the server."""

from __future__ import annotations

import os
import signal

VARIABLE = "OPTSERVE_FAILPOINT"
"""Environment variable ``name:count``: the process kills itself when it gets there that often."""

NAMES = (
    "before-journal-write",
    "during-journal-write",
    "after-journal-write",
    "before-journal-fsync",
    "after-journal-fsync",
    "before-apply",
    "after-apply",
    "before-ack",
    "after-ack",
    "before-temp-write",
    "during-temp-write",
    "after-temp-write",
    "before-rename",
    "after-rename",
    "before-directory-fsync",
    "after-directory-fsync",
)
"""All of them."""


class _Armed:
    """The active failpoint, and how often it is passed before it kills."""

    def __init__(self, setting: str) -> None:
        self.name, _, count = setting.partition(":")
        self.left = int(count or 1)
        if self.name and self.name not in NAMES:
            raise ValueError(f"{VARIABLE} names {self.name!r}, which is none of {', '.join(NAMES)}")


_armed = _Armed(os.environ.get(VARIABLE, ""))

armed = bool(_armed.name)
"""Whether the process is to die at one of them. Small steps ask before they call `hit_failpoint`."""


def is_armed(name: str) -> bool:
    """Whether the process will be killed there; then the work around it is done in smaller parts."""
    return name == _armed.name


def hit_failpoint(name: str) -> None:
    """Kills the process if this is where, and when, it is to die."""
    if name != _armed.name:
        return
    _armed.left -= 1
    if _armed.left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
