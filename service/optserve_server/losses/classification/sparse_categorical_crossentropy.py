"""Categorical cross-entropy against class indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.errors import Reason, out_of_range_error
from optserve_server.losses.base import Floats, check_allowed, remove_axis
from optserve_server.losses.classification.categorical_crossentropy import CategoricalCrossentropy


@dataclass(frozen=True)
class SparseCategoricalCrossentropy(CategoricalCrossentropy):
    """-log(q[y]) with q as in categorical cross-entropy.

    Targets are int32 or int64 in [0, classes), shaped like the prediction without its
    class axis. An example's weight is its sample weight times its class' weight, as in
    PyTorch's mean.
    """

    def _target_distributions(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        """The classes as distributions, which take the memory that the prediction does."""
        axis = self.axis % prediction.ndim
        expected = remove_axis(prediction.shape, axis)
        check_allowed(Reason.DTYPE_MISMATCH, "target", target.dtype, (np.int32, np.int64))
        check_allowed(Reason.SHAPE_MISMATCH, "target", target.shape, (expected,))
        _require_classes(target, prediction.shape[axis])
        one_hot = np.zeros_like(prediction)
        np.put_along_axis(one_hot, np.expand_dims(target, axis), 1, axis)
        return one_hot

    def total_weight(self, target: npt.NDArray[Any], sample_weight: Floats | None) -> float | None:
        if not self.class_weights:
            return super().total_weight(target, sample_weight)
        each = np.array(self.class_weights)[target]
        return float(np.sum(each if sample_weight is None else each * sample_weight))


def _require_classes(target: npt.NDArray[Any], classes: int) -> None:
    wrong = target[(target < 0) | (target >= classes)]
    if wrong.size:
        allowed = f"in [0, {classes})"
        text = f"target has the class {wrong[0]}, but classes must be {allowed}"
        raise out_of_range_error("target", wrong[0], allowed, text)
