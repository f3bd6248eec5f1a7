"""The leaky rectifier (Maas, Hannun and Ng, 2013)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class LeakyReLU(ElementwiseActivation):
    """x where x > 0, otherwise negative_slope*x. The derivative at 0 is negative_slope.

    The defaults are those of Keras' layer, of PyTorch, of jax.nn and of tf.nn.
    """

    negative_slope: float = hyper(0.3, torch=0.01, optax=0.01, lecture=0.2, ge=0)

    def forward(self, ops: Ops, x: Value) -> Value:
        if self.negative_slope == 0:  # 0*x would be nan at -infinity
            return ops.maximum(x, 0.0)
        return ops.where(x > 0, x, self.negative_slope * x)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(x > 0, dy, self.negative_slope * dy)
