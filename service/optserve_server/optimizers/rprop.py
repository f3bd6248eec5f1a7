"""Resilient propagation (Riedmiller and Braun, 1993)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optserve_server.arrays.ops import Ops, Value
from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


@dataclass(frozen=True)
class Rprop(ElementwiseRule):
    """Each element has its own step size s, and only the gradient's sign counts:

    the sign stayed  s = min(s*eta_plus, step_size_max); p -= s*sign(g)
    the sign turned  s = max(s*eta_minus, step_size_min); p stays, and the next sign is new
    it is new, or 0  p -= s*sign(g)

    As in PyTorch, `learning_rate` is what s starts from and nothing else, so that a session
    refuses a schedule, reduce_on_plateau or a group's factor for it. In the frame: s*|g|*sign(g) over |g|.
    """

    has_rate: ClassVar[bool] = False

    learning_rate: float = hyper(0.01, gt=0)
    eta_minus: float = hyper(0.5, gt=0, lt=1)
    eta_plus: float = hyper(1.2, gt=1)
    step_size_min: float = hyper(1e-6, ge=0)
    step_size_max: float = hyper(50.0, gt=0)

    def validate(self) -> None:
        if self.step_size_min > self.step_size_max:
            limit = f"at most step_size_max, {self.step_size_max}"
            raise conflict_error(
                "step_size_min", f"step_size_min is {self.step_size_min}, but must be {limit}"
            )

    def slots(self) -> dict[str, float]:
        # The sign suffices, and the product with it never vanishes as g*previous_g can.
        return {"previous_sign": 0.0, "step_size": self.learning_rate}

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {**self.constants}

    def update(
        self, ops: Ops, p: Value, g: Value, previous_sign: Value, size: Value, *,
        eta_minus: Value, eta_plus: Value, step_size_min: Value, step_size_max: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        agreement = g * previous_sign
        size = ops.where(agreement > 0, eta_plus * size, ops.where(agreement < 0, eta_minus * size, size))
        size = ops.minimum(ops.maximum(size, step_size_min), step_size_max)
        sign = ops.where(agreement < 0, 0.0, ops.sign(g))
        return p - size * sign, sign, size
