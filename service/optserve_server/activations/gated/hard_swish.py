"""The hard swish (Howard et al., 2019), also called hard SiLU."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class HardSwish(ElementwiseActivation):
    """x*hard_sigmoid(x). The derivative is 0 at -3 and 1 at 3."""

    def forward(self, ops: Ops, x: Value) -> Value:
        return ops.where(x <= -3, 0.0, ops.where(x >= 3, x, x * ((x + 3) / 6)))

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(x <= -3, 0.0, ops.where(x >= 3, dy, dy * ((2 * x + 3) / 6)))
