"""Base of losses of several predicted tensors, stacked to one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from optserve_server.errors import Reason, mismatch_error
from optserve_server.losses.base import Floats, Loss, check_allowed


@dataclass(frozen=True)
class StackedLoss(Loss):
    """A loss of tensors [..., n] that are stacked along the last axis but one: [..., parts, n].

    The gradient has the same form, so that each tensor has its own.

    Attributes:
        parts: how many tensors are stacked.
    """

    parts: ClassVar[int]

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) < 2 or shape[-2] != self.parts:
            expected, actual = f"[...,{self.parts},n]", "[" + ",".join(map(str, shape)) + "]"
            raise mismatch_error(Reason.SHAPE_MISMATCH, "prediction", expected, actual)

    def _example_axes(self, rank: int) -> tuple[int, ...]:
        return (-2, -1)

    @abstractmethod
    def _target_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the target for a prediction of ``shape``."""

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        expected = self._target_shape(prediction.shape)
        check_allowed(Reason.SHAPE_MISMATCH, "target", target.shape, (expected,))
        check_allowed(Reason.DTYPE_MISMATCH, "target", target.dtype, (prediction.dtype,))
        return target


def stack_parts(*parts: Floats) -> Floats:
    """Tensors [..., n] stacked to [..., parts, n]."""
    return np.stack(np.broadcast_arrays(*parts), axis=-2)


def mean_over_last_axis(values: Floats) -> npt.NDArray[np.float64]:
    """The mean over the last axis, summed in float64."""
    return np.asarray(np.sum(values, axis=-1, dtype=np.float64) / max(values.shape[-1], 1))
