"""The parametric rectifier (He et al., 2015, arXiv:1502.01852)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optserve_server.activations.base import Floats
from optserve_server.activations.piecewise_linear.sloped_activation import SlopedActivation
from optserve_server.arrays.narrow_floats import round_to, widen
from optserve_server.arrays.ops import NumpyOps, Ops, Value


@dataclass(frozen=True)
class PReLU(SlopedActivation):
    """x where x > 0, otherwise slope*x, with a slope given beside x.

    The slope broadcasts to x: one number, one for each element of an example (Keras), or
    [channels, 1, 1] for channels in front of two more dimensions (PyTorch).
    """

    takes_slope: ClassVar[bool] = True

    def compute_negative_slopes(self, x: Floats, slope: Floats | None) -> Floats:
        assert slope is not None  # evaluate and vjp require one
        return slope

    def slope_gradient_term(self, ops: Ops, x: Value, dy: Value) -> Value:
        """What one element adds to the gradient of its slope: dy*x where x is not above 0."""
        return ops.where(x > 0, 0.0, dy * x)

    def slope_gradient(self, x: Floats, dy: Floats, slope: Floats) -> Floats:
        self._check_gradient_arguments(x, dy, slope)
        with np.errstate(all="ignore"):
            terms = np.asarray(self.slope_gradient_term(NumpyOps(), widen(x), widen(dy)))
            lead = x.ndim - slope.ndim
            shared = [lead + i for i, extent in enumerate(slope.shape) if extent != x.shape[lead + i]]
            summed = np.sum(terms, axis=(*range(lead), *shared), dtype=np.float64)
            return round_to(np.asarray(summed.reshape(slope.shape)), x.dtype)
