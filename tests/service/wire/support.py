"""What a call comes to: a value, or the error that it raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from optserve_server.errors import DomainError

T = TypeVar("T")


def outcome(call: Callable[[], T]) -> T | DomainError:
    try:
        return call()
    except DomainError as error:
        return error
