"""Progress bars of commands that transfer much; need rich."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from optserve.extras import import_extra
from optserve.progress import LARGE, Bar, Silent


class TransferBar(Bar):
    """A bar on standard error, which is removed when the transfer ends: bytes, speed and time left.

    Args:
        what: the text in front of it.
        byte_count: length of the transfer.

    Raises:
        ImportError: rich is missing.
    """

    def __init__(self, what: str, byte_count: int) -> None:
        rich = import_extra("rich.progress", "cli")
        console = import_extra("rich.console", "cli").Console(stderr=True)
        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.DownloadColumn(True))
        rates = rich.TransferSpeedColumn(), rich.TimeRemainingColumn()
        self._progress: Any = rich.Progress(*columns, *rates, console=console, transient=True)
        self._task = self._progress.add_task(what, total=byte_count)

    def update(self, n: float | None = 1, /) -> None:
        """Adds n bytes."""
        self._progress.advance(self._task, n)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._progress.stop()


def make_transfer_bar(what: str, byte_count: int) -> Bar:
    """Returns a bar for a large transfer if standard error is a terminal and rich is installed."""
    if byte_count < LARGE or not sys.stderr.isatty():
        return Silent()
    try:
        return TransferBar(what, byte_count)
    except ImportError:
        return Silent()
