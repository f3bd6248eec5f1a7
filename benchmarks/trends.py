"""What a series of figures says: a line through sizes, growth over steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOGETHER = 20
"""Steps of which one will find no message under way."""


@dataclass(frozen=True)
class Line:
    """The line of least squares through values.

    Attributes:
        fixed: where it begins.
        each: its slope.
        straight: the share of the values' variance that it explains, R2.
    """

    fixed: float
    each: float
    straight: float

    @classmethod
    def through(cls, sizes: Sequence[float], values: Sequence[float]) -> Line:
        """The line nearest to ``values`` at ``sizes``: both the fit and R2 count squares of what is left."""
        n, y = np.asarray(sizes, float), np.asarray(values, float)
        design = np.stack([np.ones_like(n), n], axis=1)
        fixed, each = np.linalg.lstsq(design, y, rcond=None)[0]
        left = y - fixed - each * n
        return cls(float(fixed), float(each), float(1 - left @ left / np.sum((y - y.mean()) ** 2)))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The power of the size that values grow with: the slope of their logarithms; 1 of a line."""
    return Line.through(np.log(sizes).tolist(), np.log(values).tolist()).each


def growth(held: Sequence[float], steps: int) -> float:
    """Returns what ``steps`` steps add: the median slope between any two moments (Theil and Sen).

    Of some steps together the least counts, as others differ by messages that are under way.

    Args:
        held: what was held after each step, in any unit.
        steps: how many.
    """
    whole = len(held) // TOGETHER * TOGETHER
    moments = np.min(np.reshape(held[:whole], (-1, TOGETHER)), axis=1)
    first, second = np.triu_indices(len(moments), 1)
    return float(np.median((moments[second] - moments[first]) / (second - first)) * steps / TOGETHER)
