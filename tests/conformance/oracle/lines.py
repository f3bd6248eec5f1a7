"""Arrays as flat lists: which elements lie on one line along an axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any


def shape_of(nested: Any) -> tuple[int, ...]:
    return (len(nested), *shape_of(nested[0])) if isinstance(nested, list) else ()


def flatten(nested: Any) -> list[Any]:
    return [x for item in nested for x in flatten(item)] if isinstance(nested, list) else [nested]


def nest(flat: Sequence[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    size = len(flat) // shape[0]
    return [nest(flat[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])]


def lines(shape: tuple[int, ...], axis: int) -> list[list[int]]:
    """Positions of the elements of each line along ``axis``, in row-major order of the rest."""
    axis %= len(shape)
    outer, length, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    return [
        [(o * length + k) * inner + i for k in range(length)]
        for o, i in itertools.product(range(outer), range(inner))
    ]


def without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]
