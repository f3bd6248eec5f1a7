"""Mean squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optserve_server.losses.base import Floats, Loss


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """mean((p - y)^2) over the last axis; the gradient is 2*(p - y)/n."""

    name: ClassVar[str] = "mean_squared_error"

    def _values(self, prediction: Floats, target: Floats) -> Any:
        squares = np.square(prediction - target)
        return np.sum(squares, axis=-1, dtype=np.float64) / max(prediction.shape[-1], 1)

    def _slope(self, prediction: Floats, target: Floats) -> Any:
        return (prediction - target) * (2 / max(prediction.shape[-1], 1))
