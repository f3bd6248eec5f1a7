"""The logarithm of softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.activations.along_axis.softmax import softmax, subtract_maximum
from optserve_server.activations.base import Activation, Floats
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class LogSoftmax(Activation):
    """y = x - log(sum(exp(x))) along an axis; the gradient is dy - softmax(x)*sum(dy).

    Both are NaN where all inputs are -infinity, as in PyTorch.
    """

    axis: int = hyper(-1)

    def _forward(self, x: Floats, slope: Floats | None) -> Any:
        below = subtract_maximum(x, self.axis)
        total = np.sum(np.exp(below), axis=self.axis, keepdims=True, dtype=np.float64)
        return below - np.log(total).astype(x.dtype)

    def _backward(self, x: Floats, dy: Floats, slope: Floats | None) -> Any:
        total = np.sum(dy, axis=self.axis, keepdims=True, dtype=np.float64).astype(x.dtype)
        return dy - softmax(x, self.axis) * total
