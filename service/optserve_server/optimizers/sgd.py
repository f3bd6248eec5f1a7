"""Plain gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


@dataclass(frozen=True)
class SGD(ElementwiseRule):
    """p -= lr*g.

    In the frame: the gradient itself over 1.
    """

    learning_rate: float = hyper(0.01, torch=1e-3, ge=0)

    def update(self, ops: Ops, p: Value, g: Value, *, rate: Value) -> tuple[Value, ...]:
        return (p - rate * g,)
