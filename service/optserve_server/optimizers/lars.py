"""LARS (You, Gitman and Ginsburg, 2017, arXiv:1708.03888)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.tensorwise import Norms, TensorwiseRule, trust_ratio


@dataclass(frozen=True)
class LARS(TensorwiseRule):
    """d = g + weight_decay*p; velocity = mu*velocity - lr*r*d; p += velocity, where

    r = trust_coefficient*|p|/(|d| + e) over each tensor, and 1 where a norm is 0. With
    `nesterov` p += mu*velocity - lr*r*d. (optax)
    In the frame: momentum, the length of each tensor's gradient set by the tensor.
    """

    tensor_numbers: ClassVar[tuple[str, ...]] = ("ratio",)

    learning_rate: float = hyper(0.01, ge=0)
    momentum: float = hyper(0.9, ge=0, lt=1)
    weight_decay: float = hyper(0.0, ge=0)
    trust_coefficient: float = hyper(0.001, gt=0)
    epsilon: float = hyper(0.0, ge=0)
    nesterov: bool = hyper(False)

    def slots(self) -> dict[str, float]:
        return {"velocity": 0.0}

    def tensor_sum_terms(
        self, ops: Ops, p: Value, g: Value, velocity: Value, *,
        momentum: Value, weight_decay: Value, rate: Value,
    ) -> dict[str, Value]:  # fmt: skip
        return {"p": p, "d": g + weight_decay * p}

    def compute_tensor_scalars(self, norms: Mapping[str, Norms]) -> dict[str, Norms]:
        return {"ratio": trust_ratio(norms["p"], norms["d"], self.trust_coefficient, self.epsilon)}

    def update(
        self, ops: Ops, p: Value, g: Value, velocity: Value, *,
        momentum: Value, weight_decay: Value, rate: Value, ratio: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        step = rate * (ratio * (g + weight_decay * p))
        velocity = momentum * velocity - step
        return p + (momentum * velocity - step if self.nesterov else velocity), velocity
