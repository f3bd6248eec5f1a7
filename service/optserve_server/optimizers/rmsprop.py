"""RMSprop (Hinton, 2012, lecture 6 of his Coursera course)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.epsilon import EpsilonPlacement, sqrt_with_epsilon
from optserve_server.optimizers.momentum import MomentumForm


@dataclass(frozen=True)
class RMSprop(ElementwiseRule):
    """v = rho*v + (1 - rho)*g^2; d = g/root, where root is sqrt(v + e) or sqrt(v) + e and,
    when `centered`, v - mean^2 stands for v with mean = rho*mean + (1 - rho)*g. Then

    without momentum  p -= lr*d
    CLASSICAL         velocity = mu*velocity - lr*d; p += velocity  (Keras, optax)
    HEAVY_BALL        buffer = mu*buffer + d; p -= lr*buffer        (PyTorch)

    In the frame: the gradient itself, or with momentum, over the root of an average.
    """

    learning_rate: float = hyper(1e-3, torch=1e-2, ge=0)
    rho: float = hyper(0.9, torch=0.99, ge=0, lt=1)
    momentum: float = hyper(0.0, ge=0, le=1)
    epsilon: float = hyper(1e-7, torch=1e-8, optax=1e-8, lecture=0.0, ge=0)
    epsilon_placement: EpsilonPlacement = hyper(EpsilonPlacement.INSIDE, torch=EpsilonPlacement.OUTSIDE)
    centered: bool = hyper(False)
    momentum_form: MomentumForm = hyper(
        MomentumForm.CLASSICAL,
        torch=MomentumForm.HEAVY_BALL,
        allowed=(MomentumForm.CLASSICAL, MomentumForm.HEAVY_BALL),
    )

    def slots(self) -> dict[str, float]:
        names = ["v"]
        if self.centered:
            names.append("mean")
        if self.momentum:
            names.append("velocity" if self.momentum_form is MomentumForm.CLASSICAL else "buffer")
        return dict.fromkeys(names, 0.0)

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {**self.constants, "rest": 1 - self.rho, "rate": learning_rate}

    def update(
        self, ops: Ops, p: Value, g: Value, *state: Value,
        rho: Value, rest: Value, momentum: Value, rate: Value, epsilon: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        slots = dict(zip(self.slots(), state, strict=True))
        variance = slots["v"] = rho * slots["v"] + rest * (g * g)
        if self.centered:
            mean = slots["mean"] = rho * slots["mean"] + rest * g
            # A variance is never negative, but its rounded value may be.
            variance = ops.maximum(variance - mean * mean, 0.0)
        d = g / sqrt_with_epsilon(ops, variance, epsilon, self.epsilon_placement, vanishing=self.epsilon == 0)
        if "velocity" in slots:
            slots["velocity"] = momentum * slots["velocity"] - rate * d
            return p + slots["velocity"], *slots.values()
        if "buffer" in slots:
            d = slots["buffer"] = momentum * slots["buffer"] + d
        return p - rate * d, *slots.values()
