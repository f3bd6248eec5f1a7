"""Nesterov's accelerated gradient (Nesterov, 1983; Sutskever et al., 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


class NesterovForm(StrEnum):
    """How the gradient looks ahead."""

    KERAS = "KERAS"
    TORCH = "TORCH"
    LOOKAHEAD = "LOOKAHEAD"
    LOOKAHEAD_EMA = "LOOKAHEAD_EMA"


@dataclass(frozen=True)
class Nesterov(ElementwiseRule):
    """By `form`, with momentum mu,

    KERAS          v = mu*v - lr*g; p += mu*v - lr*g
    TORCH          b = mu*b + g; p -= lr*(g + mu*b)                    (PyTorch, optax)
    LOOKAHEAD      v = mu*v - lr*g; p += v, with g taken at p + mu*v
    LOOKAHEAD_EMA  m = mu*m + (1 - mu)*g; p -= lr*m, with g taken at p - lr*m  (the lecture)

    The first two keep p where gradients are taken; the others keep p itself, and the
    caller asks for the point. In the frame: an accumulated first moment over 1.
    """

    learning_rate: float = hyper(0.01, torch=1e-3, ge=0)
    momentum: float = hyper(0.9, ge=0, le=1)
    form: NesterovForm = hyper(
        NesterovForm.KERAS,
        torch=NesterovForm.TORCH,
        optax=NesterovForm.TORCH,
        lecture=NesterovForm.LOOKAHEAD_EMA,
    )

    @property
    def has_lookahead(self) -> bool:
        return self.form in (NesterovForm.LOOKAHEAD, NesterovForm.LOOKAHEAD_EMA)

    def slots(self) -> dict[str, float]:
        if self.form is NesterovForm.TORCH:
            return {"buffer": 0.0}
        return {"m": 0.0} if self.form is NesterovForm.LOOKAHEAD_EMA else {"velocity": 0.0}

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {**self.constants, "rest": 1 - self.momentum, "rate": learning_rate}

    def update(
        self, ops: Ops, p: Value, g: Value, v: Value, *, momentum: Value, rest: Value, rate: Value
    ) -> tuple[Value, ...]:
        if self.form is NesterovForm.TORCH:
            v = momentum * v + g
            return p - rate * (g + momentum * v), v
        if self.form is NesterovForm.LOOKAHEAD_EMA:
            v = momentum * v + rest * g
            return p - rate * v, v
        v = momentum * v - rate * g
        return (p + v if self.form is NesterovForm.LOOKAHEAD else p + (momentum * v - rate * g)), v

    def lookahead(self, ops: Ops, p: Value, v: Value, *, momentum: Value, rest: Value, rate: Value) -> Value:
        if self.form is NesterovForm.LOOKAHEAD:
            return p + momentum * v
        return p - rate * v if self.form is NesterovForm.LOOKAHEAD_EMA else p
