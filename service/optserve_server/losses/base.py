"""What a loss is: a number for each example, and its gradient.

Elements are computed in the prediction's dtype, as every framework does, so that a
float32 client gets float32's memory, speed and numbers. Sums are taken in float64: they
alone lose digits with size, and they cost nothing to widen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from optserve_server.errors import DomainError, Reason
from optserve_server.hyper import Hyperparameters

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
"""A float32 or float64 array of any shape."""


class Reduction(StrEnum):
    """How per-example losses become one value."""

    SUM_OVER_BATCH_SIZE = "SUM_OVER_BATCH_SIZE"
    SUM = "SUM"
    NONE = "NONE"


def reduce(per_example: Floats, reduction: Reduction) -> float | None:
    """The losses of all examples as one float64 value; None under NONE, 0 without examples."""
    if reduction is Reduction.NONE:
        return None
    return float(np.sum(per_example, dtype=np.float64)) * weight(per_example.size, reduction)


def weight(examples: int, reduction: Reduction) -> float:
    """What each example counts in the reduced value; under NONE as in the sum."""
    return 1 / max(examples, 1) if reduction is Reduction.SUM_OVER_BATCH_SIZE else 1.0


@dataclass(frozen=True)
class Loss(Hyperparameters, ABC):
    """A loss of predictions against targets."""

    name: ClassVar[str]

    def check(self, rank: int) -> None:
        """Checks what the hyperparameters ask of a prediction of ``rank`` dimensions.

        Raises:
            DomainError: OUT_OF_RANGE, naming the hyperparameter.
        """

    def per_example(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        """The loss of each example, in the prediction's dtype, without the axis summed over.

        Raises:
            DomainError: DTYPE_MISMATCH, SHAPE_MISMATCH or OUT_OF_RANGE with the field
                ``prediction`` or ``target``, and what `check` raises.
        """
        target = self._checked(prediction, target)
        with np.errstate(all="ignore"):
            return np.asarray(self._values(prediction, target), prediction.dtype)

    def gradient(self, prediction: Floats, target: npt.NDArray[Any], reduction: Reduction) -> Floats:
        """The gradient of the reduced loss with respect to the prediction, in its dtype.

        Under NONE it is that of the sum, so that each example has its own gradient.

        Raises:
            DomainError: as `per_example`.
        """
        target = self._checked(prediction, target)
        examples = prediction.size // max(prediction.shape[self._axis], 1)
        with np.errstate(all="ignore"):
            slope = self._slope(prediction, target) * weight(examples, reduction)
            return np.asarray(slope, prediction.dtype)

    @property
    def _axis(self) -> int:
        """The axis that belongs to one example."""
        return -1

    def _checked(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        """The target as `_values` and `_slope` take it."""
        require(Reason.DTYPE_MISMATCH, "prediction", prediction.dtype, (np.float32, np.float64))
        if prediction.ndim == 0:
            raise mismatch(Reason.SHAPE_MISMATCH, "prediction", "at least one dimension", "[]")
        self.check(prediction.ndim)
        return self._prepared(prediction, target)

    def _prepared(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        require(Reason.SHAPE_MISMATCH, "target", target.shape, (prediction.shape,))
        require(Reason.DTYPE_MISMATCH, "target", target.dtype, (prediction.dtype,))
        return target

    @abstractmethod
    def _values(self, prediction: Floats, target: Floats) -> Any:
        """The loss of each example."""

    @abstractmethod
    def _slope(self, prediction: Floats, target: Floats) -> Any:
        """The gradient of the sum over all examples."""


def require(reason: Reason, field: str, actual: object, allowed: tuple[object, ...]) -> None:
    """Raises `mismatch` unless ``actual`` is one of ``allowed``, dtypes or shapes."""
    if actual not in allowed:
        raise mismatch(reason, field, " or ".join(map(_shown, allowed)), _shown(actual))


def mismatch(reason: Reason, field: str, expected: str, actual: str) -> DomainError:
    """The error of a tensor whose type or shape cannot be used."""
    return DomainError(
        reason,
        f"{field} is {actual}, but must be {expected}",
        field=field,
        metadata={"expected": expected, "actual": actual},
    )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return str(np.dtype(value))
