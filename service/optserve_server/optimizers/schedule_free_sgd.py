"""Schedule-free gradient descent (Defazio et al., 2024, The Road Less Scheduled, arXiv:2405.15682)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


@dataclass(frozen=True)
class ScheduleFreeSGD(ElementwiseRule):
    """z -= lr*(g + wd*y); x = (1 - c)*x + c*z; c = w/(sum of all w so far),
    w = (largest rate so far)^weight_lr_power; g is taken at y = (1 - b1)*z + b1*x.

    The parameters are x, the point to evaluate and to keep, and y is the look-ahead point.
    (optax keeps y and computes x from it; the paths are the same.) Instead of z the state
    holds z - x, which starts at 0 whatever the parameters are. In the frame: the gradient
    itself over 1, its path averaged.
    """

    learning_rate: float = hyper(1.0, ge=0)
    beta1: float = hyper(0.9, ge=0, le=1)
    weight_lr_power: float = hyper(2.0, ge=0)
    weight_decay: float = hyper(0.0, ge=0)

    @property
    def has_lookahead(self) -> bool:
        return True

    def slots(self) -> dict[str, float]:
        return {"offset": 0.0}

    def initial_scalar_state(self) -> dict[str, float]:
        # Weights are summed relative to the largest, which is the last: they cannot overflow.
        return {"largest_rate": 0.0, "weight_sum": 0.0}

    def compute_average_weights(self, learning_rate: float, carried: dict[str, float]) -> dict[str, float]:
        """c, 1 - c and the carried numbers."""
        largest = max(carried["largest_rate"], learning_rate)
        if not largest and self.weight_lr_power:
            return {"new": 0.0, "old": 1.0, "largest_rate": 0.0, "weight_sum": 0.0}
        shrunk = (carried["largest_rate"] / largest) ** self.weight_lr_power if largest else 1.0
        total = carried["weight_sum"] * shrunk + 1
        return {"new": 1 / total, "old": 1 - 1 / total, "largest_rate": largest, "weight_sum": total}

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {
            **self.constants,
            "ahead": 1 - self.beta1,
            "rate": learning_rate,
            **self.compute_average_weights(learning_rate, carried),
        }

    def update(
        self, ops: Ops, p: Value, g: Value, offset: Value, *,
        ahead: Value, rate: Value, weight_decay: Value, new: Value, old: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        moved = offset - rate * (g + weight_decay * (p + ahead * offset))
        return p + new * moved, old * moved

    def lookahead(
        self, ops: Ops, p: Value, offset: Value, *,
        ahead: Value, rate: Value, weight_decay: Value, new: Value, old: Value,
    ) -> Value:  # fmt: skip
        return p + ahead * offset
