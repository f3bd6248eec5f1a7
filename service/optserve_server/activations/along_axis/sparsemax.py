"""Sparsemax (Martins and Astudillo, 2016, arXiv:1602.02068)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.activations.along_axis.softmax import subtract_maximum
from optserve_server.activations.base import Activation, Floats
from optserve_server.hyperparameters import hyper


def project_to_simplex(x: Floats, axis: int) -> Floats:
    """The nearest distribution to ``x`` along ``axis``, max(x - t, 0). Sums are taken in float64.

    An infinite input takes everything; several share it equally. NaN where all inputs are
    -infinity, or one is NaN.
    """
    below = subtract_maximum(x, axis)
    falling = -np.sort(-below, axis=axis)
    sums = np.cumsum(falling, axis=axis, dtype=np.float64)
    count = np.arange(1, x.shape[axis] + 1).reshape([-1 if d == axis % x.ndim else 1 for d in range(x.ndim)])
    support = np.count_nonzero(1 + count * falling > sums, axis=axis, keepdims=True)
    if not x.size:
        return below
    last = np.maximum(support - 1, 0)
    threshold = (np.take_along_axis(sums, last, axis) - 1) / np.maximum(support, 1)
    projected: Floats = np.maximum(below - threshold, 0).astype(x.dtype)
    return np.where(support == 0, np.nan, projected).astype(x.dtype)


@dataclass(frozen=True)
class Sparsemax(Activation):
    """max(x - t, 0) along an axis, with the t that makes their sum 1.

    The gradient is dy - mean(dy) over the outputs above 0, and 0 elsewhere.
    """

    axis: int = hyper(-1)

    def _forward(self, x: Floats, slope: Floats | None) -> Any:
        return project_to_simplex(x, self.axis)

    def _backward(self, x: Floats, dy: Floats, slope: Floats | None) -> Any:
        y = project_to_simplex(x, self.axis)
        above = y > 0
        total = np.sum(np.where(above, dy, 0), axis=self.axis, keepdims=True, dtype=np.float64)
        count = np.maximum(np.count_nonzero(above, axis=self.axis, keepdims=True), 1)
        slope_ = np.where(above, dy - (total / count).astype(x.dtype), 0)
        return np.where(np.isnan(y), np.nan, slope_)
