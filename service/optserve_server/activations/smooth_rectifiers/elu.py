"""The exponential linear unit (Clevert, Unterthiner and Hochreiter, 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class ELU(ElementwiseActivation):
    """x where x > 0, otherwise alpha*(exp(x) - 1). The derivative at 0 is alpha."""

    alpha: float = hyper(1.0, ge=0, le=1e30)

    def forward(self, ops: Ops, x: Value) -> Value:
        return ops.where(x > 0, x, self.alpha * ops.expm1(x))

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(x > 0, dy, dy * (self.alpha * ops.exp(x)))
