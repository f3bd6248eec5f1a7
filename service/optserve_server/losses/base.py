"""Base class of losses: a number for each example, and its gradient.

Elements are computed in the prediction's dtype, as every framework does, so that a
float32 client gets float32's memory, speed and numbers. Sums are taken in float64: they
alone lose digits with size, and they cost nothing to widen.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from optserve_server.activations.base import check_axis
from optserve_server.arrays.backend import Backend
from optserve_server.errors import Reason, mismatch_error
from optserve_server.hyperparameters import Algorithm

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
"""A float32 or float64 array of any shape."""


class Reduction(StrEnum):
    """How per-example losses become one value."""

    SUM_OVER_BATCH_SIZE = "SUM_OVER_BATCH_SIZE"
    SUM = "SUM"
    NONE = "NONE"
    MEAN = "MEAN"
    MEAN_WITH_SAMPLE_WEIGHT = "MEAN_WITH_SAMPLE_WEIGHT"


def reduce_losses(
    per_example: Floats, reduction: Reduction, total_weight: float | None = None
) -> float | None:
    """The losses of all examples as one float64 value; None under NONE, 0 without examples.

    Args:
        per_example: the losses, times their weights.
        reduction: how they become one.
        total_weight: the sum of the weights; their number when None.
    """
    if reduction is Reduction.NONE:
        return None
    total = float(np.sum(per_example, dtype=np.float64))
    return total * compute_example_weight(per_example.size, reduction, total_weight)


def compute_example_weight(examples: int, reduction: Reduction, total_weight: float | None = None) -> float:
    """What each example counts in the reduced value; under NONE as in the sum."""
    if reduction in (Reduction.SUM, Reduction.NONE):
        return 1.0
    if reduction is Reduction.MEAN_WITH_SAMPLE_WEIGHT and total_weight is not None:
        return 1 / total_weight if total_weight else 0.0
    return 1 / max(examples, 1)


@dataclass(frozen=True)
class Evaluated:
    """What a loss is found to be.

    Attributes:
        per_example: the loss of each example, times its weight, in the prediction's dtype.
        gradient: that of the reduced loss, in the prediction's dtype and shape, if asked for.
    """

    per_example: Floats
    gradient: Floats | None


@dataclass(frozen=True)
class Loss(Algorithm):
    """A loss of predictions against targets.

    Attributes:
        compiles: whether its first evaluation may take long, because a backend compiles it.
    """

    compiles: ClassVar[bool] = False

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Checks what the hyperparameters ask of a prediction of that shape.

        Raises:
            DomainError: OUT_OF_RANGE or SHAPE_MISMATCH, naming the hyperparameter.
        """
        check_axis(self._example_axis, len(shape))

    def evaluate(
        self,
        prediction: Floats,
        target: npt.NDArray[Any],
        reduction: Reduction,
        *,
        sample_weight: Floats | None = None,
        with_gradient: bool,
        backend: Backend,
    ) -> Evaluated:
        """The losses of all examples, and the gradient if asked for.

        Args:
            prediction: as in `per_example`.
            target: as in `per_example`.
            reduction: what the gradient is that of, as in `gradient`.
            sample_weight: as in `per_example`.
            with_gradient: asks for the gradient.
            backend: runs what compiles.

        Raises:
            DomainError: as `per_example`.
        """
        per_example = self.per_example(prediction, target, sample_weight)
        gradient = self.gradient(prediction, target, reduction, sample_weight) if with_gradient else None
        return Evaluated(per_example, gradient)

    def per_example(
        self, prediction: Floats, target: npt.NDArray[Any], sample_weight: Floats | None = None
    ) -> Floats:
        """The loss of each example, in the prediction's dtype, without the axis summed over.

        Args:
            prediction: float32 or float64, of at least one dimension.
            target: of the prediction's dtype and shape, unless the loss says otherwise.
            sample_weight: a factor for each example, of the prediction's dtype.

        Raises:
            DomainError: DTYPE_MISMATCH, SHAPE_MISMATCH or OUT_OF_RANGE with the field
                ``prediction``, ``target`` or ``sample_weight``, and what `check_shape` raises.
        """
        y = self._check_and_prepare(prediction, target, sample_weight)
        with np.errstate(all="ignore"):
            values = np.asarray(self._example_losses(prediction, y), prediction.dtype)
        return apply_weights(values, sample_weight)

    def gradient(
        self,
        prediction: Floats,
        target: npt.NDArray[Any],
        reduction: Reduction,
        sample_weight: Floats | None = None,
    ) -> Floats:
        """The gradient of the reduced loss with respect to the prediction, in its dtype.

        Under NONE it is that of the sum, so that each example has its own gradient.

        Raises:
            DomainError: as `per_example`.
        """
        y = self._check_and_prepare(prediction, target, sample_weight)
        with np.errstate(all="ignore"):
            slope = np.asarray(self._sum_gradient(prediction, y), prediction.dtype)
        return self._scale_gradient(slope, target, reduction, sample_weight)

    def total_weight(self, target: npt.NDArray[Any], sample_weight: Floats | None) -> float | None:
        """What MEAN_WITH_SAMPLE_WEIGHT divides by; None stands for the number of examples."""
        return None if sample_weight is None else float(np.sum(sample_weight, dtype=np.float64))

    @property
    def _example_axis(self) -> int:
        """The axis that belongs to one example: the hyperparameter `axis` where the loss has one."""
        return getattr(self, "axis", -1)

    def _scale_gradient(
        self,
        slope: Floats,
        target: npt.NDArray[Any],
        reduction: Reduction,
        sample_weight: Floats | None,
    ) -> Floats:
        """The gradient of the reduced loss, from that of the sum without weights."""
        examples = slope.size // max(slope.shape[self._example_axis], 1)
        factor = compute_example_weight(examples, reduction, self.total_weight(target, sample_weight))
        each = None if sample_weight is None else np.expand_dims(sample_weight, self._example_axis)
        with np.errstate(all="ignore"):
            return np.asarray(apply_weights(slope, each) * factor, slope.dtype)

    def _check_and_prepare(
        self, prediction: Floats, target: npt.NDArray[Any], sample_weight: Floats | None = None
    ) -> Floats:
        """The target as `_example_losses` and `_sum_gradient` take it."""
        check_allowed(Reason.DTYPE_MISMATCH, "prediction", prediction.dtype, (np.float32, np.float64))
        if prediction.ndim == 0:
            raise mismatch_error(Reason.SHAPE_MISMATCH, "prediction", "at least one dimension", "[]")
        self.check_shape(prediction.shape)
        if sample_weight is not None:
            expected = remove_axis(prediction.shape, self._example_axis)
            check_allowed(Reason.SHAPE_MISMATCH, "sample_weight", sample_weight.shape, (expected,))
            check_allowed(Reason.DTYPE_MISMATCH, "sample_weight", sample_weight.dtype, (prediction.dtype,))
        return self._prepare_target(prediction, target)

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        return require_same_shape_dtype(prediction, target)

    @abstractmethod
    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        """The loss of each example."""

    @abstractmethod
    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        """The gradient of the sum over all examples."""


def apply_weights(values: Floats, factors: Floats | None) -> Floats:
    """``values`` times ``factors``; None stands for 1."""
    if factors is None:
        return values
    with np.errstate(all="ignore"):
        return np.asarray(values * factors)


def remove_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape without one of its axes."""
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def require_same_shape_dtype(prediction: Floats, target: npt.NDArray[Any]) -> Floats:
    """The target, which must be of the prediction's shape and dtype."""
    check_allowed(Reason.SHAPE_MISMATCH, "target", target.shape, (prediction.shape,))
    check_allowed(Reason.DTYPE_MISMATCH, "target", target.dtype, (prediction.dtype,))
    return target


def check_allowed(reason: Reason, field: str, actual: object, allowed: tuple[object, ...]) -> None:
    """Raises `mismatch_error` unless ``actual`` is one of ``allowed``, dtypes or shapes."""
    if actual not in allowed:
        raise mismatch_error(
            reason, field, " or ".join(map(_shape_or_dtype_text, allowed)), _shape_or_dtype_text(actual)
        )


def _shape_or_dtype_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return str(np.dtype(value))
