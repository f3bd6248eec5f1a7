"""Categorical cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optserve_server.losses.base import Floats
from optserve_server.losses.classification.crossentropy import (
    ClassLoss,
    crossentropy_from_logits,
    crossentropy_from_logits_gradient,
    crossentropy_from_probabilities,
    crossentropy_from_probabilities_gradient,
)


@dataclass(frozen=True)
class CategoricalCrossentropy(ClassLoss):
    """-sum(y*log(q)) along an axis, with y smoothed to y*(1 - e) + e/classes, where q is

    softmax(prediction)          from logits
    prediction/sum(prediction)   otherwise, clipped to [1e-7, 1 - 1e-7]  (Keras)

    Targets are distributions over the classes, of the prediction's dtype and shape.
    """

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        values = crossentropy_from_logits if self.from_logits else crossentropy_from_probabilities
        return values(prediction, target, self.axis)

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        slope = (
            crossentropy_from_logits_gradient
            if self.from_logits
            else crossentropy_from_probabilities_gradient
        )
        return slope(prediction, target, self.axis)
