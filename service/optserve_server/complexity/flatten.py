"""All dimensions joined into one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.complexity.base import Cost, Layer, Shape


@dataclass(frozen=True)
class Flatten(Layer):
    """The same elements in one dimension: nothing is computed, and no memory is taken."""

    def cost(self, shape: Shape) -> Cost:
        return Cost((math.prod(shape),), is_view=True)
