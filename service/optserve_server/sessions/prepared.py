"""A change that was checked and not made yet: between the two it can be written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Prepared(Generic[T]):
    """A change; its session must stay locked until it is made or given up.

    Attributes:
        commit: makes it, and returns what became of it.
        give_up: gives back what was taken for it.
    """

    commit: Callable[[], T]
    give_up: Callable[[], None] = _nothing
