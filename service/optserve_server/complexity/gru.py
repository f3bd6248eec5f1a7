"""The gated recurrent unit (Cho et al., 2014, arXiv:1406.1078)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optserve_server.complexity.base import Shape
from optserve_server.complexity.recurrent import Recurrent
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class GRU(Recurrent):
    """h = z*h + (1 - z)*tanh(c), with gates z and r, and the candidate c by `reset_after`

    False  c = x*W + (r*h)*U + b                    (the paper)
    True   c = x*W + b + r*(h*U + b'), b' for z and r as well  (cuDNN, and Keras' default)

    Beside the matrix products a unit takes 11 operations a step: a sum and a function for
    each of z, r and c, 1 for the reset and 4 for h; and 1 for each bias, of which there
    are 3, or 6 where the reset comes after.
    """

    gates: ClassVar[int] = 3

    reset_after: bool = hyper(True)

    @property
    def biases_per_unit(self) -> int:
        return super().biases_per_unit * (2 if self.reset_after else 1)

    @property
    def bias_shapes(self) -> tuple[Shape, ...]:
        if not self.reset_after:
            return super().bias_shapes
        return ((2, self.gates * self.units),) * self.use_bias

    @property
    def operations_per_unit(self) -> int:
        return 3 * 2 + 1 + 4 + self.biases_per_unit
