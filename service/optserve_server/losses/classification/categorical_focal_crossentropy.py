"""Categorical focal cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.arrays.ops import NumpyOps
from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.classification.crossentropy import (
    ClassLoss,
    backpropagate_normalization,
    is_clipped,
    log_softmax,
    sum_over_axis,
)
from optserve_server.losses.probabilities import CLIP, multiply_no_nan, power


@dataclass(frozen=True)
class CategoricalFocalCrossentropy(ClassLoss):
    """-alpha*sum(y*(1 - q)^gamma*log(q)) along an axis, where q is

    softmax(prediction)          from logits; Keras clips it, which differs below 1e-7 only
    prediction/sum(prediction)   otherwise, clipped to [1e-7, 1 - 1e-7]  (Keras)
    """

    gamma: float = hyper(2.0, ge=0)
    alpha: float = hyper(0.25, ge=0)

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        _, log_q, rest = self._class_probabilities(prediction)
        focused = multiply_no_nan(NumpyOps(), target * power(NumpyOps(), rest, self.gamma), log_q)
        return -self.alpha * sum_over_axis(focused, self.axis).squeeze(self.axis)

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        """From logits a - q*sum(a), where a = y*(gamma*(1 - q)^(gamma - 1)*q*log(q) - (1 - q)^gamma)."""
        q, log_q, rest = self._class_probabilities(prediction)
        # The derivative with respect to log(q), which stays finite where q is 0.
        rise = self._focal_factor_gradient(rest) * multiply_no_nan(NumpyOps(), q, log_q)
        slope = target * (rise - power(NumpyOps(), rest, self.gamma))
        if self.from_logits:
            whole = sum_over_axis(slope, self.axis).astype(q.dtype)
            return self.alpha * (slope - q * whole)
        raw = prediction / sum_over_axis(prediction, self.axis).astype(prediction.dtype)
        return self.alpha * backpropagate_normalization(
            prediction, np.where(is_clipped(raw), 0, slope / q), self.axis
        )

    def _class_probabilities(self, prediction: Floats) -> tuple[Floats, Floats, Floats]:
        """q, log(q) and 1 - q."""
        if self.from_logits:
            log_q = log_softmax(prediction, self.axis)
            return np.exp(log_q), log_q, -np.expm1(log_q)
        q = prediction / sum_over_axis(prediction, self.axis).astype(prediction.dtype)
        q = np.clip(q, CLIP, 1 - CLIP)
        return q, np.log(q), 1 - q

    def _focal_factor_gradient(self, rest: Floats) -> Any:
        """gamma*(1 - q)^(gamma - 1), 0 where it is infinite: there log(q) is 0."""
        if self.gamma == 0:
            return 0.0
        rise = self.gamma * power(NumpyOps(), rest, self.gamma - 1)
        return np.where(rest == 0, 0, rise) if self.gamma < 1 else rise
