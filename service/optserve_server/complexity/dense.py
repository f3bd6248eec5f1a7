"""The fully connected layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.complexity.base import MAX_EXTENT, Cost, Layer, Shape, require_rank
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class Dense(Layer):
    """y = x*W + b over the last dimension.

    With n places, d features and u units:

        parameters     d*u + u
        multiply-adds  n*d*u
        besides        n*u additions of the bias
    """

    units: int = hyper(ge=1, le=MAX_EXTENT)
    use_bias: bool = hyper(True)

    def cost(self, shape: Shape) -> Cost:
        require_rank(shape, range(1, len(shape) + 1), "at least [features]")
        *outer, features = shape
        output = (*outer, self.units)
        return Cost(
            output,
            tensors=((features, self.units), *((self.units,),) * self.use_bias),
            multiply_adds=math.prod(outer) * features * self.units,
            operations=math.prod(output) * self.use_bias,
        )
