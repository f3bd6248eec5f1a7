"""The hard hyperbolic tangent (Collobert, 2004)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value
from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class HardTanh(ElementwiseActivation):
    """x held to [min_value, max_value]. The derivative at both is 0."""

    min_value: float = hyper(-1.0)
    max_value: float = hyper(1.0)

    def validate(self) -> None:
        if self.min_value >= self.max_value:
            text = f"min_value is {self.min_value}, but must be less than max_value, {self.max_value}"
            raise conflict_error("min_value", text)

    def forward(self, ops: Ops, x: Value) -> Value:
        return ops.minimum(ops.maximum(x, self.min_value), self.max_value)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(x > self.min_value, ops.where(x < self.max_value, dy, 0.0), 0.0)
