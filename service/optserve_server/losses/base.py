"""Base class of losses: a number for each example, and its gradient.

Elements are computed in the prediction's dtype, as every framework does, so that a
float32 client gets float32's memory, speed and numbers; float16 and bfloat16 are computed
in float32 and rounded once. Sums are taken in float64: they
alone lose digits with size, and they cost nothing to widen.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from optserve_server.activations.base import check_axis
from optserve_server.arrays.backend import Backend
from optserve_server.arrays.narrow_floats import NARROW, round_to, widen
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
    per_example: Floats, reduction: Reduction, total_weight: float | None = None, ignored: int = 0
) -> float | None:
    """The losses of all examples as one float64 value; None under NONE, 0 without examples.

    Args:
        per_example: the losses, times their weights.
        reduction: how they become one.
        total_weight: the sum of the weights; their number when None.
        ignored: how many of the examples do not count.
    """
    if reduction is Reduction.NONE:
        return None
    total = float(np.sum(per_example, dtype=np.float64))
    return total * compute_example_weight(per_example.size - ignored, reduction, total_weight)


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
class Computed(Evaluated):
    """A loss with its value.

    Attributes:
        value: the reduced loss; None under NONE.
    """

    value: float | None


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
        for axis in self._example_axes(len(shape)):
            check_axis(axis, len(shape))

    def compute(
        self,
        prediction: npt.NDArray[Any],
        target: npt.NDArray[Any],
        reduction: Reduction,
        *,
        sample_weight: npt.NDArray[Any] | None = None,
        with_gradient: bool,
        backend: Backend,
    ) -> Computed:
        """As `evaluate`, with the value, and of float16 and bfloat16 as well.

        These are computed in float32. Values per example and the gradient are rounded once;
        the value is that of the ones before rounding.

        Raises:
            DomainError: as `per_example`.
        """
        dtype = prediction.dtype
        if dtype in NARROW:
            for field, array in (("target", target), ("sample_weight", sample_weight)):
                if array is not None and array.dtype.kind not in "iu":
                    check_allowed(Reason.DTYPE_MISMATCH, field, array.dtype, (dtype,))
        wide, weight = widen(target), None if sample_weight is None else widen(sample_weight)
        found = self.evaluate(
            widen(prediction),
            wide,
            reduction,
            sample_weight=weight,
            with_gradient=with_gradient,
            backend=backend,
        )
        value = self.reduce(found.per_example, wide, reduction, weight)
        gradient = None if found.gradient is None else round_to(found.gradient, dtype)
        return Computed(round_to(found.per_example, dtype), gradient, value)

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
        """The loss of each example, in the prediction's dtype, without the axes of an example.

        Args:
            prediction: float32 or float64, of at least one dimension.
            target: of the prediction's dtype and shape, unless the loss says otherwise.
            sample_weight: a factor for each example, of the prediction's dtype. Losses that are
                a function of each element also take a factor for each element.

        Raises:
            DomainError: DTYPE_MISMATCH, SHAPE_MISMATCH or OUT_OF_RANGE with the field
                ``prediction``, ``target`` or ``sample_weight``, and what `check_shape` raises.
        """
        y = self._check_and_prepare(prediction, target, sample_weight)
        with np.errstate(all="ignore"):
            values = np.asarray(self._weigh_losses(prediction, y, sample_weight), prediction.dtype)
        ignored = self.find_ignored_examples(target)
        return values if ignored is None else np.where(ignored, 0, values).astype(values.dtype)

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

    def reduce(
        self,
        per_example: Floats,
        target: npt.NDArray[Any],
        reduction: Reduction,
        sample_weight: Floats | None = None,
    ) -> float | None:
        """The value of what `per_example` returns for these arguments; None under NONE."""
        total = self.total_weight(target, sample_weight)
        return reduce_losses(per_example, reduction, total, self.count_ignored(target))

    def total_weight(self, target: npt.NDArray[Any], sample_weight: Floats | None) -> float | None:
        """What MEAN_WITH_SAMPLE_WEIGHT divides by; None stands for the number of examples that count."""
        if sample_weight is None:
            return None
        ignored = self.find_ignored_examples(target)
        counted = sample_weight if ignored is None else sample_weight[~ignored]
        return float(np.sum(counted, dtype=np.float64))

    def find_ignored_examples(self, target: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        """Which examples count as 0 and in no mean, of the shape of `per_example`; None stands for none."""
        return None

    def count_ignored(self, target: npt.NDArray[Any]) -> int:
        """How many examples `find_ignored_examples` names."""
        ignored = self.find_ignored_examples(target)
        return 0 if ignored is None else int(np.count_nonzero(ignored))

    def _example_axes(self, rank: int) -> tuple[int, ...]:
        """The axes that belong to one example: the hyperparameter `axis` where the loss has one."""
        return (getattr(self, "axis", -1),)

    def _weigh_losses(self, prediction: Floats, target: Any, sample_weight: Floats | None) -> Any:
        """The loss of each example, times its weight."""
        values = np.asarray(self._example_losses(prediction, target), prediction.dtype)
        return apply_weights(values, sample_weight)

    def _scale_gradient(
        self,
        slope: Floats,
        target: npt.NDArray[Any],
        reduction: Reduction,
        sample_weight: Floats | None,
    ) -> Floats:
        """The gradient of the reduced loss, from that of the sum without weights."""
        axes = self._example_axes(slope.ndim)
        factor = self._example_factor(slope.shape, target, reduction, sample_weight)
        each = sample_weight
        if each is not None and each.ndim < slope.ndim:
            each = np.expand_dims(each, axes)
        with np.errstate(all="ignore"):
            scaled = np.asarray(apply_weights(slope, each) * factor, slope.dtype)
        ignored = self.find_ignored_examples(target)
        if ignored is None:
            return scaled
        return np.where(np.expand_dims(ignored, axes), 0, scaled).astype(slope.dtype)

    def _example_factor(
        self,
        shape: tuple[int, ...],
        target: npt.NDArray[Any],
        reduction: Reduction,
        sample_weight: Floats | None,
    ) -> float:
        """What each example of a prediction of ``shape`` counts in the reduced loss, its weight aside."""
        examples = math.prod(remove_axes(shape, self._example_axes(len(shape))))
        counted = examples - self.count_ignored(target)
        return compute_example_weight(counted, reduction, self.total_weight(target, sample_weight))

    def _check_and_prepare(
        self, prediction: Floats, target: npt.NDArray[Any], sample_weight: Floats | None = None
    ) -> Any:
        """The target as `_example_losses` and `_sum_gradient` take it."""
        check_allowed(Reason.DTYPE_MISMATCH, "prediction", prediction.dtype, (np.float32, np.float64))
        if prediction.ndim == 0:
            raise mismatch_error(Reason.SHAPE_MISMATCH, "prediction", "at least one dimension", "[]")
        self.check_shape(prediction.shape)
        if sample_weight is not None:
            allowed = self._weight_shapes(prediction.shape)
            check_allowed(Reason.SHAPE_MISMATCH, "sample_weight", sample_weight.shape, allowed)
            check_allowed(Reason.DTYPE_MISMATCH, "sample_weight", sample_weight.dtype, (prediction.dtype,))
        return self._prepare_target(prediction, target)

    def _weight_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The shapes that sample weights may have for a prediction of ``shape``."""
        return (remove_axes(shape, self._example_axes(len(shape))),)

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        """The target in the form that `_example_losses` takes."""
        return require_same_shape_dtype(prediction, target)

    @abstractmethod
    def _example_losses(self, prediction: Floats, target: Any) -> Any:
        """The loss of each example."""

    @abstractmethod
    def _sum_gradient(self, prediction: Floats, target: Any) -> Any:
        """The gradient of the sum over all examples."""


def apply_weights(values: Floats, factors: Floats | None) -> Floats:
    """``values`` times ``factors``; None stands for 1."""
    if factors is None:
        return values
    with np.errstate(all="ignore"):
        return np.asarray(values * factors)


def remove_axes(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without some of its axes."""
    left_out = {axis % len(shape) for axis in axes}
    return tuple(extent for axis, extent in enumerate(shape) if axis not in left_out)


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
