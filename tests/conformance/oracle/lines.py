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


def blocks(shape: tuple[int, ...], axes: tuple[int, ...]) -> list[list[int]]:
    """Positions of the elements of each block along ``axes``, in row-major order of the rest."""
    inner = {axis % len(shape) for axis in axes}
    found: dict[tuple[int, ...], list[int]] = {}
    for place, index in enumerate(itertools.product(*map(range, shape))):
        found.setdefault(tuple(i for axis, i in enumerate(index) if axis not in inner), []).append(place)
    return list(found.values())


def without(shape: tuple[int, ...], *axes: int) -> tuple[int, ...]:
    left_out = {axis % len(shape) for axis in axes}
    return tuple(extent for axis, extent in enumerate(shape) if axis not in left_out)
