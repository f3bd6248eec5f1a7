"""Batch normalization (Ioffe and Szegedy, 2015, arXiv:1502.03167)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.complexity.base import Cost, Layer, Shape, require_rank
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class BatchNormalization(Layer):
    """y = gamma*(x - mean)/sqrt(variance + epsilon) + beta, in inference y = a*x + b.

    With c channels there are c factors gamma and c offsets beta, which are trained, and c
    moving means and variances, which are not. Each element takes 2 operations; a and b
    depend on the parameters alone and can be had beforehand.
    """

    center: bool = hyper(True)
    scale: bool = hyper(True)

    def cost(self, shape: Shape) -> Cost:
        require_rank(shape, range(1, len(shape) + 1), "at least [features]")
        channels = shape[-1]
        return Cost(
            shape,
            tensors=((channels,),) * (self.center + self.scale),
            non_trainable=2 * channels,
            operations=2 * math.prod(shape),
        )
