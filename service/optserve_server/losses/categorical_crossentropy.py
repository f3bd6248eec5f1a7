"""Categorical cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from optserve_server.hyper import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.crossentropy import Crossentropy


@dataclass(frozen=True)
class CategoricalCrossentropy(Crossentropy):
    """-sum(y*log(q)) along an axis, with y smoothed to y*(1 - e) + e/classes.

    Targets are distributions over the classes, of the prediction's dtype and shape.
    """

    name: ClassVar[str] = "categorical_crossentropy"

    label_smoothing: float = hyper(0.0, ge=0, le=1)

    def _prepared(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        y = super()._prepared(prediction, target)
        if not self.label_smoothing:
            return y
        classes = max(prediction.shape[self.axis], 1)
        smoothed: Floats = y * (1 - self.label_smoothing) + self.label_smoothing / classes
        return smoothed
