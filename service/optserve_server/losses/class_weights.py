"""Factors of classes: their ranges, their number, and how they broadcast."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optserve_server.errors import Reason, mismatch_error, out_of_range_error
from optserve_server.losses.base import Floats


def validate_factors(field: str, factors: Sequence[float]) -> None:
    """Raises OUT_OF_RANGE, naming the factor, unless all are finite and at least 0."""
    for i, factor in enumerate(factors):
        if not 0 <= factor < math.inf:
            raise out_of_range_error(f"{field}[{i}]", factor, "at least 0")


def check_factor_count(field: str, factors: Sequence[float], classes: int) -> None:
    """Raises SHAPE_MISMATCH with the field unless there is one factor for each class, or none."""
    if len(factors) not in (0, classes):
        raise mismatch_error(Reason.SHAPE_MISMATCH, field, f"[{classes}]", f"[{len(factors)}]")


def broadcast_factors(factors: Sequence[float], like: Floats, axis: int) -> Floats:
    """Factors along ``axis`` of an array, of its dtype."""
    shape = [-1 if d == axis % like.ndim else 1 for d in range(like.ndim)]
    return np.array(factors, like.dtype).reshape(shape)
