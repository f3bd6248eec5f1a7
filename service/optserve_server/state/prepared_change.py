"""Changes that were checked and not made yet: between the two they can be recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

T = TypeVar("T")


def nothing() -> None:
    """Gives back what takes nothing."""


@dataclass(frozen=True)
class Prepared(Generic[T]):
    """A change; its session must stay locked until it is made or given up.

    Attributes:
        commit: makes it, and returns its outcome.
        give_up: gives back what was taken for it.
        changes: whether it changes anything that has to be recorded.
    """

    commit: Callable[[], T]
    give_up: Callable[[], None] = nothing
    changes: ClassVar[bool] = True
