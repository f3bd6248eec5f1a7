"""Logistic loss of several classes for each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.class_weights import broadcast_factors, check_factor_count, validate_factors
from optserve_server.losses.classification.binary_crossentropy import (
    crossentropy_from_logits,
    crossentropy_from_logits_derivative,
)
from optserve_server.losses.elementwise import ElementwiseLoss


@dataclass(frozen=True)
class MultilabelSoftMargin(ElementwiseLoss):
    """-w*(y*log(sigmoid(p)) + (1 - y)*log(sigmoid(-p))), the mean over the classes of the last axis.

    The derivative is w*((1 - y)*sigmoid(p) - y*sigmoid(-p)). Class weights w are 1 unless stated.
    """

    class_weights: tuple[float, ...] = hyper(())

    def validate(self) -> None:
        validate_factors("class_weights", self.class_weights)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_factor_count("class_weights", self.class_weights, shape[-1])

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        return crossentropy_from_logits(ops, p, y, 1 - y)

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return crossentropy_from_logits_derivative(ops, p, y, 1 - y)

    def _element_values(self, prediction: Floats, target: Any) -> Any:
        return self._weigh_classes(super()._element_values(prediction, target))

    def _element_derivatives(self, prediction: Floats, target: Any) -> Any:
        return self._weigh_classes(super()._element_derivatives(prediction, target))

    def _weigh_classes(self, values: Floats) -> Floats:
        if not self.class_weights:
            return values
        weighted: Floats = values * broadcast_factors(self.class_weights, values, -1)
        return weighted
