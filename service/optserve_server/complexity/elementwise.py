"""A function of each element."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.complexity.base import MAX_EXTENT, Cost, Layer, Shape
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class Elementwise(Layer):
    """A function of each element without parameters, such as an activation.

    No multiply-adds, and `operations` for each element: 1 by default, as for a
    rectifier's comparison or a call of tanh.
    """

    operations: int = hyper(1, ge=0, le=MAX_EXTENT)

    def cost(self, shape: Shape) -> Cost:
        return Cost(shape, operations=math.prod(shape) * self.operations)
