"""Softmin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optserve_server.activations.along_axis.softmax import Softmax
from optserve_server.activations.base import Floats


@dataclass(frozen=True)
class Softmin(Softmax):
    """Softmax of -x along an axis; the gradient is -y*(dy - sum(y*dy)).

    Both are NaN where all inputs are infinity, as in PyTorch.
    """

    def _forward(self, x: Floats, slope: Floats | None) -> Any:
        return super()._forward(-x, slope)

    def _backward(self, x: Floats, dy: Floats, slope: Floats | None) -> Any:
        return -super()._backward(-x, dy, slope)
