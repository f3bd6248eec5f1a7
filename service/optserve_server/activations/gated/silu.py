"""The sigmoid linear unit (Elfwing, Uchibe and Doya, 2017), also called swish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optserve_server.activations.gated.gated_activation import GatedActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class SiLU(GatedActivation):
    """x*sigmoid(x)."""

    far: ClassVar[float] = 800.0

    def compute_gate_tail_and_slope(self, ops: Ops, a: Value) -> tuple[Value, Value]:
        e = ops.exp(-a)
        s = e / (1 + e)
        return s, s / (1 + e)
