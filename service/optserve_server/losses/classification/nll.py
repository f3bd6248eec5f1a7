"""The negative log-likelihood of classes whose log-probabilities are predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.class_indices import ClassIndexLoss, weigh_indices
from optserve_server.losses.class_weights import check_factor_count, validate_factors


@dataclass(frozen=True)
class NLL(ClassIndexLoss):
    """-w[y]*p[y], where p are log-probabilities along the class axis and w class weights.

    The gradient is -w[y] at the class y and 0 elsewhere. Examples whose class is
    ignore_class count as 0 and in no mean. An example's weight is its sample weight times
    its class' weight, as in PyTorch's mean.
    """

    axis: int = hyper(-1, torch=1)
    class_weights: tuple[float, ...] = hyper(())
    ignore_class: int | None = hyper(None, torch=-100)

    def validate(self) -> None:
        validate_factors("class_weights", self.class_weights)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_factor_count("class_weights", self.class_weights, shape[self.axis])

    def total_weight(self, target: npt.NDArray[Any], sample_weight: Floats | None) -> float | None:
        if not self.class_weights:
            return super().total_weight(target, sample_weight)
        return weigh_indices(self.class_weights, target, self.find_ignored_examples(target), sample_weight)

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        return np.expand_dims(self._check_indices(prediction, target), self.axis)

    def _example_losses(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        asked = np.take_along_axis(prediction, target, self.axis)
        return -(self._class_factors(target, prediction.dtype) * asked).squeeze(self.axis)

    def _sum_gradient(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        slope = np.zeros_like(prediction)
        np.put_along_axis(slope, target, -self._class_factors(target, prediction.dtype), self.axis)
        return slope

    def _class_factors(self, target: npt.NDArray[Any], dtype: np.dtype[Any]) -> Floats:
        if not self.class_weights:
            return np.ones(target.shape, dtype)
        return np.asarray(np.array(self.class_weights, dtype)[target])
