"""Changes that were checked and are not applied yet, so that they can be recorded first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

T = TypeVar("T")


def do_nothing() -> None:
    """Releases nothing."""


@dataclass(frozen=True)
class Prepared(Generic[T]):
    """A checked change; its session must stay locked until it is applied or given up.

    Attributes:
        commit: applies it, and returns its outcome.
        roll_back: releases what was allocated for it.
        has_changes: whether it changes anything that has to be recorded.
    """

    commit: Callable[[], T]
    roll_back: Callable[[], None] = do_nothing
    has_changes: ClassVar[bool] = True
