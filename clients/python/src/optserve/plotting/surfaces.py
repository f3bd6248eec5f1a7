"""Functions of two parameters for optimizers to descend, with their gradients.

All are plain float64 arithmetic on a point's coordinates, and so take whole grids as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """A function of two parameters.

    Attributes:
        name: on the command line.
        formula: in words.
        value: f(x, y), of arrays alike.
        gradient: df/dx and df/dy.
        window: what is shown: left, right, bottom, top.
        start: where paths begin.
        minimum: location of its least value; None if it has none.
        learning_rate: what suits most optimizers here.
    """

    name: str
    formula: str
    value: Callable[[Floats, Floats], Floats]
    gradient: Callable[[Floats, Floats], tuple[Floats, Floats]]
    window: tuple[float, float, float, float]
    start: tuple[float, float]
    minimum: tuple[float, float] | None
    learning_rate: float

    def gradient_at(self, point: Floats) -> Floats:
        """The gradient at ``point``, both [2]; infinite or NaN far away, without a warning."""
        with np.errstate(all="ignore"):
            return np.array(self.gradient(point[0], point[1]))

    def values_at(self, points: Floats) -> Floats:
        """The values at ``points`` [n, 2], as [n]."""
        with np.errstate(all="ignore"):
            return self.value(points[:, 0], points[:, 1])


def _beale(x: Floats, y: Floats) -> Floats:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _beale_gradient(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    dx = 2 * a * (y - 1) + 2 * b * (y**2 - 1) + 2 * c * (y**3 - 1)
    return dx, 2 * a * x + 4 * b * x * y + 6 * c * x * y**2


ALL = (
    Surface(
        "beale",
        "(1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²",
        _beale,
        _beale_gradient,
        window=(-0.5, 4.2, -1.2, 1.8),
        start=(0.5, 1.1),
        minimum=(3.0, 0.5),
        learning_rate=0.01,
    ),
    Surface(
        "rosenbrock",
        "(1 - x)² + 100(y - x²)²",
        lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
        lambda x, y: (-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)),
        window=(-2.0, 2.0, -0.75, 2.75),
        start=(-1.5, 2.0),
        minimum=(1.0, 1.0),
        learning_rate=0.001,
    ),
    Surface(
        "quadratic",
        "(x² + 20y²)/2",
        lambda x, y: (x**2 + 20 * y**2) / 2,
        lambda x, y: (x, 20 * y),
        window=(-10.0, 4.0, -3.5, 3.5),
        start=(-9.0, 2.5),
        minimum=(0.0, 0.0),
        learning_rate=0.03,
    ),
    Surface(
        "saddle",
        "x² - y²",
        lambda x, y: x**2 - y**2,
        lambda x, y: (2 * x, -2 * y),
        window=(-2.0, 2.0, -2.0, 2.0),
        start=(-1.6, 0.001),
        minimum=None,
        learning_rate=0.05,
    ),
)
SURFACES = {surface.name: surface for surface in ALL}
