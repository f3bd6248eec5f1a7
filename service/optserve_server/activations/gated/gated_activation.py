"""Activations that are x times a gate."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class GatedActivation(ElementwiseActivation):
    """x*G(x), where the gate G rises from 0 to 1 and G(x) + G(-x) = 1.

    With a = |x| and the tail s = G(-a) the value is max(x, 0) - a*s, and the derivative is
    s - a*G'(a) left of 0 and 1 minus that right of it. So nothing cancels in the tails, and
    infinity needs no case of its own: a is cut off at ``far``, where s is already 0.
    """

    far: ClassVar[float]

    @abstractmethod
    def compute_gate_tail_and_slope(self, ops: Ops, a: Value) -> tuple[Value, Value]:
        """G(-a) and G'(a) for a in [0, far]."""

    def forward(self, ops: Ops, x: Value) -> Value:
        a = ops.minimum(ops.abs(x), self.far)
        s, _ = self.compute_gate_tail_and_slope(ops, a)
        return ops.maximum(x, 0.0) - a * s

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        a = ops.minimum(ops.abs(x), self.far)
        s, slope = self.compute_gate_tail_and_slope(ops, a)
        left = s - a * slope
        return dy * ops.where(x > 0, 1 - left, left)
