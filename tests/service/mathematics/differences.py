"""Derivatives by central differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def numeric_gradient(value: Callable[[Floats], Any], x: Floats, width: float = 1e-6) -> Floats:
    """The gradient of ``value``, a number, at ``x``."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        right, left = x.copy(), x.copy()
        right[index] += width
        left[index] -= width
        gradient[index] = (value(right) - value(left)) / (2 * width)
    return gradient
