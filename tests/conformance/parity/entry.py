"""One line of a parity table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a framework's class or function is here, or why it is not.

    Attributes:
        spec: the field of the family's oneof; empty if there is none.
        how: what to set beside the convention's defaults.
        reason: why there is none; empty if there is one.
    """

    spec: str = ""
    how: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        assert bool(self.spec) != bool(self.reason), self


def here(spec: str, how: str = "") -> Entry:
    """A spec of the contract."""
    return Entry(spec=spec, how=how)


def excuse(reason: str) -> Entry:
    """Nothing, for a reason."""
    return Entry(reason=reason)


Table = Mapping[str, Mapping[str, Entry]]
"""By framework and name."""
