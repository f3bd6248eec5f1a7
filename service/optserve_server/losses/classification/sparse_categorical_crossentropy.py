"""Categorical cross-entropy against class indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.class_indices import ClassIndexLoss, weigh_indices
from optserve_server.losses.classification.categorical_crossentropy import CategoricalCrossentropy


@dataclass(frozen=True)
class SparseCategoricalCrossentropy(ClassIndexLoss, CategoricalCrossentropy):
    """-log(q[y]) with q as in categorical cross-entropy.

    Targets are int32 or int64 in [0, classes), shaped like the prediction without its
    class axis. Examples whose class is ignore_class count as 0 and in no mean. An example's
    weight is its sample weight times its class' weight, as in PyTorch's mean.
    """

    ignore_class: int | None = hyper(None, torch=-100)

    def _target_distributions(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        """The classes as distributions, which take the memory that the prediction does."""
        axis = self.axis % prediction.ndim
        one_hot = np.zeros_like(prediction)
        np.put_along_axis(one_hot, np.expand_dims(self._check_indices(prediction, target), axis), 1, axis)
        return one_hot

    def total_weight(self, target: npt.NDArray[Any], sample_weight: Floats | None) -> float | None:
        if not self.class_weights:
            return super().total_weight(target, sample_weight)
        return weigh_indices(self.class_weights, target, self.find_ignored_examples(target), sample_weight)
