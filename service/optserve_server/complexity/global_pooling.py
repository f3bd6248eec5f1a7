"""Pooling over all places."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.complexity.base import Cost, Layer, Shape, require_rank
from optserve_server.complexity.windows import MAX_DIMENSIONS, PoolingForm
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class GlobalPooling(Layer):
    """The largest element or the mean of each channel over all of its places.

    No parameters and no multiply-adds. With n places, each channel takes n - 1
    comparisons, or n - 1 additions and a division.
    """

    form: PoolingForm = hyper(PoolingForm.MAX)
    keep_dimensions: bool = hyper(False)

    def cost(self, shape: Shape) -> Cost:
        require_rank(shape, range(2, MAX_DIMENSIONS + 2), "one to three dimensions and channels")
        *outer, channels = shape
        kept = (1,) * len(outer) if self.keep_dimensions else ()
        return Cost(
            (*kept, channels), operations=channels * self.form.operations_per_window(math.prod(outer))
        )
