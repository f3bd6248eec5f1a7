"""Progress bars of long transfers; need tqdm."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self

LARGE = 32 << 20
"""Transfers of fewer bytes show no bar by default."""


class Bar(Protocol):
    """Receives a transfer's progress, in bytes."""

    def update(self, n: float | None = 1, /) -> bool | None:
        """Adds n bytes."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return None


class Silent(Bar):
    """Shows nothing."""


def make_progress_bar(what: str, byte_count: int, wanted: bool | None) -> Bar:
    """Returns a bar for a transfer.

    Args:
        what: the text in front of it.
        byte_count: length of the transfer.
        wanted: None shows a bar for a large transfer when standard error is a terminal and
            tqdm is installed.

    Raises:
        ImportError: a bar is wanted and tqdm is not installed.
    """
    if wanted is False or (wanted is None and not (byte_count >= LARGE and sys.stderr.isatty())):
        return Silent()
    try:
        from tqdm import tqdm
    except ImportError:
        if wanted:
            raise
        return Silent()
    return tqdm(desc=what, total=byte_count, unit="B", unit_scale=True, unit_divisor=1024, leave=False)
