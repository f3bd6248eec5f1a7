"""Margin loss of several classes for each example."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.errors import Reason
from optserve_server.losses.base import Floats, Loss, check_allowed
from optserve_server.losses.class_indices import require_classes


@dataclass(frozen=True)
class MultilabelMargin(Loss):
    """sum(max(1 - p[j] + p[i], 0))/classes over asked classes j and others i, along the last axis.

    Targets are int32 or int64 of the prediction's shape: along the last axis the indices of
    the asked classes, up to the first that is negative. The gradient at i counts the terms
    above 0 that hold p[i], negated where i is asked, divided by the number of classes.
    """

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        check_allowed(Reason.DTYPE_MISMATCH, "target", target.dtype, (np.int32, np.int64))
        check_allowed(Reason.SHAPE_MISMATCH, "target", target.shape, (prediction.shape,))
        held = np.where(np.logical_or.accumulate(target < 0, axis=-1), -1, target)
        require_classes(held[held >= 0], prediction.shape[-1])
        return held

    def _example_losses(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        total = np.zeros(prediction.shape[:-1])
        for _, excess in _excesses(prediction, target):
            total += np.sum(excess, axis=-1, dtype=np.float64)
        return total / max(prediction.shape[-1], 1)

    def _sum_gradient(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        slope = np.zeros_like(prediction)
        for index, excess in _excesses(prediction, target):
            above = excess > 0
            slope += above
            asked = np.take_along_axis(slope, index, -1) - above.sum(axis=-1, keepdims=True)
            np.put_along_axis(slope, index, asked, -1)
        return slope / max(prediction.shape[-1], 1)


def _excesses(prediction: Floats, target: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], Floats]]:
    """For each place of the target, the asked class [..., 1] and max(1 - p[j] + p, 0), 0 where i is asked."""
    asked = np.zeros(prediction.shape, np.bool_)
    for place in range(target.shape[-1]):
        index = target[..., place : place + 1]
        found = np.take_along_axis(asked, np.maximum(index, 0), -1) | (index >= 0)
        np.put_along_axis(asked, np.maximum(index, 0), found, -1)
    for place in range(target.shape[-1]):
        index = target[..., place : place + 1]
        if not (index >= 0).any():
            return
        held = np.maximum(index, 0)
        excess = np.maximum(1 - np.take_along_axis(prediction, held, -1) + prediction, 0)
        yield held, np.where(asked | (index < 0), 0, excess)
