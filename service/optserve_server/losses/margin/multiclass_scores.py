"""Base of losses that hold the asked class' score against the best one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.losses.base import Floats
from optserve_server.losses.class_indices import ClassIndexLoss


@dataclass(frozen=True)
class ScoreLoss(ClassIndexLoss):
    """max(p + margin) - p[y] along the last axis, where only classes other than y have the margin.

    The gradient is t - onehot(y), where t shares 1 among the equal maxima.
    """

    @abstractmethod
    def _margin(self) -> float:
        """The lead that the asked class must have."""

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        return np.expand_dims(self._check_indices(prediction, target), -1)

    def _example_losses(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        best = np.max(self._raise_others(prediction, target), axis=-1, initial=-np.inf)
        return best - np.take_along_axis(prediction, target, -1)[..., 0]

    def _sum_gradient(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        raised = self._raise_others(prediction, target)
        top = raised == np.max(raised, axis=-1, keepdims=True, initial=-np.inf)
        slope = (top / np.maximum(np.sum(top, axis=-1, keepdims=True), 1)).astype(prediction.dtype)
        np.put_along_axis(slope, target, np.take_along_axis(slope, target, -1) - 1, -1)
        return slope

    def _raise_others(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        raised: Floats = prediction + self._margin()
        np.put_along_axis(raised, target, np.take_along_axis(prediction, target, -1), -1)
        return raised
