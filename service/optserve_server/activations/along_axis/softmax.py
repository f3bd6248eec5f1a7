"""Softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.activations.base import Activation, Floats
from optserve_server.hyperparameters import hyper


def subtract_maximum(x: Floats, axis: int) -> Floats:
    """``x`` minus its maximum along ``axis``, so that no exponential overflows.

    The maximum itself becomes 0 even where it is infinity: an infinite input takes
    everything, several share it. Where all are -infinity, nothing can be shared: NaN.
    """
    top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    below: Floats = np.subtract(x, top, out=np.zeros_like(x), where=(x != top) | (top == -np.inf))
    return below


def softmax(x: Floats, axis: int) -> Floats:
    """exp(x)/sum(exp(x)) along ``axis``. The sum is taken in float64."""
    e = np.exp(subtract_maximum(x, axis))
    return e / np.sum(e, axis=axis, keepdims=True, dtype=np.float64).astype(x.dtype)


@dataclass(frozen=True)
class Softmax(Activation):
    """y = exp(x)/sum(exp(x)) along an axis; the gradient is y*(dy - sum(y*dy)).

    Both are NaN where all inputs are -infinity, as in PyTorch.
    """

    axis: int = hyper(-1)

    def _forward(self, x: Floats, slope: Floats | None) -> Any:
        return softmax(x, self.axis)

    def _backward(self, x: Floats, dy: Floats, slope: Floats | None) -> Any:
        y = softmax(x, self.axis)
        mean = np.sum(y * dy, axis=self.axis, keepdims=True, dtype=np.float64).astype(x.dtype)
        return y * (dy - mean)
