"""Categorical cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optserve_server.losses.base import Floats
from optserve_server.losses.crossentropy import (
    ClassLoss,
    of_logits,
    of_logits_slope,
    of_probabilities,
    of_probabilities_slope,
)


@dataclass(frozen=True)
class CategoricalCrossentropy(ClassLoss):
    """-sum(y*log(q)) along an axis, with y smoothed to y*(1 - e) + e/classes, where q is

    softmax(prediction)          from logits
    prediction/sum(prediction)   otherwise, clipped to [1e-7, 1 - 1e-7]  (Keras)

    Targets are distributions over the classes, of the prediction's dtype and shape.
    """

    def _values(self, prediction: Floats, target: Floats) -> Any:
        values = of_logits if self.from_logits else of_probabilities
        return values(prediction, target, self.axis)

    def _gradient(self, prediction: Floats, target: Floats) -> Any:
        slope = of_logits_slope if self.from_logits else of_probabilities_slope
        return slope(prediction, target, self.axis)
