"""The gated linear unit (Dauphin et al., 2017, arXiv:1612.08083)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.activations.base import Activation, Floats
from optserve_server.activations.sigmoidal.sigmoid import Sigmoid
from optserve_server.arrays.ops import NumpyOps
from optserve_server.errors import Reason, mismatch_error
from optserve_server.hyperparameters import hyper

_SIGMOID, _OPS = Sigmoid(), NumpyOps()


@dataclass(frozen=True)
class GLU(Activation):
    """a*sigmoid(b), where a and b are the halves of the input along an axis.

    The gradient is dy*s for a and dy*a*s*(1 - s) for b, with s = sigmoid(b). Where a is
    infinite and s or its slope 0, the product is 0.
    """

    axis: int = hyper(-1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """``shape`` with half the extent along the axis."""
        self.check_rank(len(shape))
        axis = self.axis % len(shape)
        if shape[axis] % 2:
            text = f"axis {axis} has {shape[axis]} elements, which makes no halves"
            raise mismatch_error(Reason.SHAPE_MISMATCH, "input", "a multiple of 2", shape[axis], text)
        return (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])

    def _forward(self, x: Floats, slope: Floats | None) -> Any:
        a, b = np.split(x, 2, self.axis)
        return _gate(_SIGMOID.forward(_OPS, b), a)

    def _backward(self, x: Floats, dy: Floats, slope: Floats | None) -> Any:
        a, b = np.split(x, 2, self.axis)
        rise = _SIGMOID.gradient(_OPS, b, np.ones_like(b))
        return np.concatenate([dy * _SIGMOID.forward(_OPS, b), dy * _gate(rise, a)], self.axis)


def _gate(gate: Floats, a: Floats) -> Floats:
    """``gate*a``, 0 where the gate is 0 and ``a`` infinite."""
    product: Floats = np.where((gate == 0) & np.isinf(a), 0, gate * a)
    return product
