"""Gradient descent with momentum (Polyak, 1964; Qian, 1999)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from optserve_server.arrays.ops import Ops, Value
from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


class MomentumForm(StrEnum):
    """How momentum accumulates."""

    CLASSICAL = "CLASSICAL"
    HEAVY_BALL = "HEAVY_BALL"
    EMA = "EMA"


@dataclass(frozen=True)
class Momentum(ElementwiseRule):
    """By `form`, with momentum mu,

    CLASSICAL   v = mu*v - lr*g; p += v                                (Keras)
    HEAVY_BALL  b = mu*b + (1 - dampening)*g, b = g at first; p -= lr*b  (PyTorch, optax)
    EMA         m = mu*m + (1 - mu)*g; p -= lr*m                       (the lecture)

    CLASSICAL keeps the learning rates of past steps in v, the others do not: they part
    when the rate changes. In the frame: an accumulated first moment over 1.
    """

    learning_rate: float = hyper(0.01, torch=1e-3, ge=0)
    momentum: float = hyper(0.9, ge=0, le=1)
    dampening: float = hyper(0.0, ge=0, le=1)
    form: MomentumForm = hyper(
        MomentumForm.CLASSICAL,
        torch=MomentumForm.HEAVY_BALL,
        optax=MomentumForm.HEAVY_BALL,
        lecture=MomentumForm.EMA,
    )

    def validate(self) -> None:
        if self.dampening and self.form is not MomentumForm.HEAVY_BALL:
            raise conflict_error("dampening", f"dampening is {self.dampening}, but {self.form} has none")

    def slots(self) -> dict[str, float]:
        # The three mean different things, so none may be taken for another by its name.
        if self.form is MomentumForm.CLASSICAL:
            return {"velocity": 0.0}
        return {"buffer": 0.0} if self.form is MomentumForm.HEAVY_BALL else {"m": 0.0}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset({"buffer"}) if self.dampening else frozenset()

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        fresh = 1 - self.momentum
        if self.form is MomentumForm.HEAVY_BALL:
            fresh = 1.0 if step == 1 else 1 - self.dampening
        return {**self.constants, "fresh": fresh, "rate": learning_rate}

    def update(
        self, ops: Ops, p: Value, g: Value, v: Value, *, momentum: Value, fresh: Value, rate: Value
    ) -> tuple[Value, ...]:
        if self.form is MomentumForm.CLASSICAL:
            v = momentum * v - rate * g
            return p + v, v
        v = momentum * v + fresh * g
        return p - rate * v, v
