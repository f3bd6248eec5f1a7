"""Ends the demo between two epochs, when Ctrl-C or SIGTERM asks for it."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupted(Exception):
    """The demo was asked to end.

    Attributes:
        status: its exit status, 128 and the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


_received: list[int] = []


def catch_interrupts() -> None:
    """Notes SIGINT and SIGTERM for `check_interrupts`; the second one raises KeyboardInterrupt at once.

    The first is not raised where it arrives, because Python ignores what is raised in some callbacks.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)


def check_interrupts() -> None:
    """Raises Interrupted if a signal has come."""
    if _received:
        raise Interrupted(_received[0])


def _on_signal(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:
        raise KeyboardInterrupt
