"""AMSGrad (Reddi, Kale and Kumar, 2018, arXiv:1904.09237)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.adam import Adam, BiasCorrection


class AMSGradMaximum(StrEnum):
    """Over what AMSGrad takes its running maximum."""

    RAW = "RAW"
    CORRECTED = "CORRECTED"
    UNCORRECTED = "UNCORRECTED"


@dataclass(frozen=True)
class AMSGrad(Adam):
    """Adam with w for v in the root, where by `maximum`

    RAW          w = max(w, v), then corrected by `bias_correction`  (Keras, PyTorch)
    CORRECTED    w = max(w, v/(1 - b2^t)), over m/(1 - b1^t)         (optax)
    UNCORRECTED  v = max(v, b2*v + (1 - b2)*g^2) stands for both, and nothing is corrected:
                 the next average continues from the maximum           (the lecture)

    RAW without a correction is the paper's own form.

    In the frame: an averaged first moment over the root of a second that never falls.
    """

    bias_correction: BiasCorrection = hyper(
        BiasCorrection.FOLDED,
        torch=BiasCorrection.HATTED,
        optax=BiasCorrection.HATTED,
        lecture=BiasCorrection.NONE,
    )
    maximum: AMSGradMaximum = hyper(
        AMSGradMaximum.RAW, optax=AMSGradMaximum.CORRECTED, lecture=AMSGradMaximum.UNCORRECTED
    )

    @property
    def correction(self) -> BiasCorrection:
        if self.maximum is AMSGradMaximum.RAW:
            return self.bias_correction
        if self.maximum is AMSGradMaximum.CORRECTED:
            return BiasCorrection.HATTED
        return BiasCorrection.NONE

    def slots(self) -> dict[str, float]:
        if self.maximum is AMSGradMaximum.UNCORRECTED:
            return {"m": 0.0, "v_max": 0.0}
        return {"m": 0.0, "v": 0.0, "v_max": 0.0}

    def update(  # has other slots than Adam
        self, ops: Ops, p: Value, g: Value, m: Value, *seconds: Value,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value,
        rate: Value, second: Value, epsilon: Value, epsilon_root: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        m = beta1 * m + rest_1 * g
        if self.maximum is AMSGradMaximum.UNCORRECTED:
            (w,) = seconds
            w = ops.maximum(w, beta2 * w + rest_2 * (g * g))
            return p - rate * m / self.compute_denominator(ops, w, epsilon, epsilon_root), m, w
        v, w = seconds
        v = beta2 * v + rest_2 * (g * g)
        w = ops.maximum(w, second * v if self.maximum is AMSGradMaximum.CORRECTED else v)
        late = self.maximum is AMSGradMaximum.RAW and self.correction is BiasCorrection.HATTED
        moved = rate * m / self.compute_denominator(ops, second * w if late else w, epsilon, epsilon_root)
        return p - moved, m, v, w
