"""The demo's progress bars."""

from __future__ import annotations

import sys
from typing import NoReturn

from tqdm import tqdm


def epoch_bar(what: str, epochs: int) -> tqdm[NoReturn]:
    """A bar over epochs: live on a terminal, a line every ten seconds in a log."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=epochs, desc=f"{what:<15}", unit=" epochs", mininterval=interval)
