"""Hinge loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.elementwise import ElementwiseLoss


@dataclass(frozen=True)
class MarginLoss(ElementwiseLoss):
    """A loss of y*p with targets of -1 and 1.

    Targets that are 0 or 1 throughout stand for -1 and 1 in Keras, not in optax.
    """

    convert_labels: bool = hyper(True, optax=False)

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        y: Floats = super()._prepare_target(prediction, target)
        if not self.convert_labels or not np.all((y == 0) | (y == 1)):
            return y
        signs: Floats = 2 * y - 1
        return signs


@dataclass(frozen=True)
class Hinge(MarginLoss):
    """max(1 - y*p, 0), the mean over the last axis; the derivative is -y where it is above 0."""

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        return ops.maximum(1 - y * p, 0.0)

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return ops.where(1 - y * p > 0, -y, 0.0)
