"""Which of many parameters alike are tested by ``make test``, and which by ``make test-all`` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


def slow_unless(is_fast: Callable[[T], bool], values: Iterable[T]) -> list[Any]:
    """Parameters for ``pytest.mark.parametrize``, of which those that are not fast are marked ``slow``.

    A test with several parameters is slow if one of them is.
    """
    return [value if is_fast(value) else pytest.param(value, marks=pytest.mark.slow) for value in values]
