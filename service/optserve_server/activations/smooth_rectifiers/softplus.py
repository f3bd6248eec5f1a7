"""Softplus."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class Softplus(ElementwiseActivation):
    """log(1 + exp(beta*x))/beta = max(x, 0) + log(1 + e)/beta with e = exp(-beta*|x|).

    The derivative is 1/(1 + e) right of 0 and e/(1 + e) left of it. PyTorch's threshold,
    beyond which it takes x itself, is left out: it saves it an overflow that is none here.
    """

    beta: float = hyper(1.0, ge=1e-30, le=1e30)

    def forward(self, ops: Ops, x: Value) -> Value:
        e = ops.exp(-self.beta * ops.abs(x))
        return ops.maximum(x, 0.0) + ops.log1p(e) / self.beta

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        e = ops.exp(-self.beta * ops.abs(x))
        return dy * ops.where(x > 0, 1 / (1 + e), e / (1 + e))
