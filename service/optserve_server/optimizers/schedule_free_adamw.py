"""Schedule-free AdamW (Defazio et al., 2024, The Road Less Scheduled, arXiv:2405.15682)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.epsilon import EpsilonPlacement, sqrt_with_epsilon
from optserve_server.optimizers.schedule_free_sgd import ScheduleFreeSGD


@dataclass(frozen=True)
class ScheduleFreeAdamW(ScheduleFreeSGD):
    """Schedule-free gradient descent with g/(sqrt(v/(1 - b2^t)) + e) + wd*y for the
    direction, v = b2*v + (1 - b2)*g^2.

    The decay pulls at y and moves z, so it is part of the rule and no decoupled decay of the
    parameters. In the frame: the gradient itself over the root of an averaged second moment,
    its path averaged.
    """

    learning_rate: float = hyper(0.0025, ge=0)
    beta2: float = hyper(0.999, ge=0, lt=1)
    epsilon: float = hyper(1e-8, ge=0)

    def slots(self) -> dict[str, float]:
        return {"offset": 0.0, "v": 0.0}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset({"v"})

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {
            **super().compute_scalars(step, learning_rate, **carried),
            "second": 1 / (1 - self.beta2**step),
        }

    def update(  # type: ignore[override]  # has one slot more
        self, ops: Ops, p: Value, g: Value, offset: Value, v: Value, *,
        ahead: Value, rate: Value, weight_decay: Value, new: Value, old: Value,
        beta2: Value, rest_2: Value, second: Value, epsilon: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        v = beta2 * v + rest_2 * (g * g)
        below = sqrt_with_epsilon(
            ops, second * v, epsilon, EpsilonPlacement.OUTSIDE, vanishing=self.epsilon == 0
        )
        moved = offset - rate * (g / below + weight_decay * (p + ahead * offset))
        return p + new * moved, old * moved, v

    def lookahead(  # type: ignore[override]
        self, ops: Ops, p: Value, offset: Value, v: Value, *,
        ahead: Value, rate: Value, weight_decay: Value, new: Value, old: Value,
        beta2: Value, rest_2: Value, second: Value, epsilon: Value,
    ) -> Value:  # fmt: skip
        return p + ahead * offset
