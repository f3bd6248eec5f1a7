"""Layer normalization (Ba, Kiros and Hinton, 2016, arXiv:1607.06450)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.complexity.base import Cost, Layer, Shape, require_rank
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class LayerNormalization(Layer):
    """y = gamma*(x - mean)/sqrt(variance + epsilon) + beta over the last dimension.

    With d features there are d factors gamma and d offsets beta. A row takes 5*d + 2
    operations, d for the mean, d to subtract it, 2*d for the mean of the squares, 2 for
    the factor 1/sqrt(variance + epsilon) and d to apply it; and d for each of gamma and
    beta.
    """

    center: bool = hyper(True)
    scale: bool = hyper(True)

    def cost(self, shape: Shape) -> Cost:
        require_rank(shape, range(1, len(shape) + 1), "at least [features]")
        *outer, features = shape
        learnt = self.center + self.scale
        operations = math.prod(outer) * (5 * features + 2 + features * learnt)
        return Cost(shape, tensors=((features,),) * learnt, operations=operations)
