"""Progress bars of long transfers; need tqdm."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TypeAlias

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


ProgressOption: TypeAlias = bool | Callable[[str, int], Bar] | None
"""Whether transfers show a bar, or what makes one, of the text in front of it and the byte count."""


def make_progress_bar(what: str, byte_count: int, wanted: ProgressOption) -> Bar:
    """Returns a bar for a transfer.

    Args:
        what: the text in front of it.
        byte_count: length of the transfer.
        wanted: whether there is to be one, or what makes it. None shows a bar for a large transfer in a
            notebook, or when standard error is a terminal, if tqdm is installed.

    Raises:
        ImportError: a bar is wanted and tqdm is not installed.
    """
    if callable(wanted):
        return wanted(what, byte_count)
    if wanted is False or (wanted is None and not (byte_count >= LARGE and _can_show_bar())):
        return Silent()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        if wanted:
            raise
        return Silent()
    return tqdm(desc=what, total=byte_count, unit="B", unit_scale=True, unit_divisor=1024, leave=False)


def _can_show_bar() -> bool:
    """Whether this process writes to a terminal, or belongs to a notebook."""
    find_shell = getattr(builtins, "get_ipython", None)  # IPython defines it, and a kernel has the trait
    return sys.stderr.isatty() or (find_shell is not None and hasattr(find_shell(), "kernel"))
