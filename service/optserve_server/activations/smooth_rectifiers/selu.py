"""The scaled exponential linear unit (Klambauer et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value

SCALE = 1.0507009873554804934
ALPHA = 1.6732632423543772848
"""With these, mean 0 and variance 1 are a fixed point of a layer (equation 14 of the paper)."""


@dataclass(frozen=True)
class SELU(ElementwiseActivation):
    """scale*x where x > 0, otherwise scale*alpha*(exp(x) - 1). Left derivative at 0."""

    def forward(self, ops: Ops, x: Value) -> Value:
        return ops.where(x > 0, SCALE * x, SCALE * ALPHA * ops.expm1(x))

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(x > 0, SCALE * dy, dy * (SCALE * ALPHA * ops.exp(x)))
