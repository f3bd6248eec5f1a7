"""Base of losses whose targets are class indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.errors import Reason, out_of_range_error
from optserve_server.losses.base import Floats, Loss, check_allowed, remove_axes


@dataclass(frozen=True)
class ClassIndexLoss(Loss):
    """A loss against one class index for each example.

    Targets are int32 or int64, shaped like the prediction without its class axis. A class
    beside those of the prediction may be ignored, where the loss has the hyperparameter
    `ignore_class`.
    """

    def find_ignored_examples(self, target: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        ignored = getattr(self, "ignore_class", None)
        return None if ignored is None else np.asarray(target == ignored)

    def _check_indices(self, prediction: Floats, target: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The indices, 0 where they are ignored.

        Raises:
            DomainError: DTYPE_MISMATCH, SHAPE_MISMATCH or OUT_OF_RANGE with the field ``target``.
        """
        axis = getattr(self, "axis", -1)
        expected = remove_axes(prediction.shape, (axis,))
        check_allowed(Reason.DTYPE_MISMATCH, "target", target.dtype, (np.int32, np.int64))
        check_allowed(Reason.SHAPE_MISMATCH, "target", target.shape, (expected,))
        ignored = self.find_ignored_examples(target)
        indices = target if ignored is None else np.where(ignored, 0, target)
        require_classes(indices, prediction.shape[axis])
        return indices


def require_classes(indices: npt.NDArray[Any], classes: int) -> None:
    """Raises OUT_OF_RANGE with the field ``target`` unless all are in [0, classes)."""
    wrong = indices[(indices < 0) | (indices >= classes)]
    if wrong.size:
        allowed = f"in [0, {classes})"
        text = f"target has the class {wrong[0]}, but classes must be {allowed}"
        raise out_of_range_error("target", wrong[0], allowed, text)


def weigh_indices(
    class_weights: Sequence[float],
    indices: npt.NDArray[Any],
    ignored: npt.NDArray[np.bool_] | None,
    sample_weight: Floats | None,
) -> float:
    """The sum of the weights of examples, each its class' weight times its sample weight."""
    if ignored is not None:
        indices = indices[~ignored]
        sample_weight = None if sample_weight is None else sample_weight[~ignored]
    each = np.array(class_weights)[indices]
    return float(np.sum(each if sample_weight is None else each * sample_weight))
