"""What an activation is: a function of a tensor, and its derivative."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.vocabulary import NumpyOps, Ops, Value
from optserve_server.errors import DomainError, Reason
from optserve_server.hyper import Hyperparameters

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
"""A float32 or float64 array of any shape."""


@dataclass(frozen=True)
class Activation(Hyperparameters, ABC):
    """A function of a tensor. Right at infinities; nan stays nan."""

    name: ClassVar[str]

    def check(self, rank: int) -> None:
        """Checks what the hyperparameters ask of an input of ``rank`` dimensions.

        Raises:
            DomainError: OUT_OF_RANGE, naming the hyperparameter.
        """

    def evaluate(self, x: Floats) -> Floats:
        """The activation of ``x``, in its dtype and shape.

        Raises:
            DomainError: DTYPE_MISMATCH with the field ``input``, and what `check` raises.
        """
        _require_float(x)
        self.check(x.ndim)
        with np.errstate(all="ignore"):
            return np.asarray(self._forward(x), x.dtype)

    def vjp(self, x: Floats, dy: Floats) -> Floats:
        """The gradient with respect to ``x``, given ``dy``, that with respect to the output.

        Raises:
            DomainError: DTYPE_MISMATCH or SHAPE_MISMATCH with the field ``input`` or
                ``output_gradient``, and what `check` raises.
        """
        _require_float(x)
        _require_alike(x, dy)
        self.check(x.ndim)
        with np.errstate(all="ignore"):
            return np.asarray(self._backward(x, dy), x.dtype)

    @abstractmethod
    def _forward(self, x: Floats) -> Any: ...

    @abstractmethod
    def _backward(self, x: Floats, dy: Floats) -> Any: ...


@dataclass(frozen=True)
class ElementwiseActivation(Activation):
    """A function of each element alone, in straight-line arithmetic that can be traced."""

    @abstractmethod
    def forward(self, ops: Ops, x: Value) -> Value:
        """The activation of one element."""

    @abstractmethod
    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        """The derivative at one element, times ``dy``."""

    def _forward(self, x: Floats) -> Any:
        return self.forward(NumpyOps(), x)

    def _backward(self, x: Floats, dy: Floats) -> Any:
        return self.gradient(NumpyOps(), x, dy)


def check_axis(axis: int, rank: int) -> None:
    """Checks that a tensor of ``rank`` dimensions has the axis.

    Raises:
        DomainError: OUT_OF_RANGE with the field ``axis``.
    """
    if not -rank <= axis < rank:
        allowed = f"in [{-rank}, {rank})"
        raise DomainError(
            Reason.OUT_OF_RANGE,
            f"axis is {axis}, but must be {allowed} for a tensor of {rank} dimensions",
            field="axis",
            metadata={"range": allowed, "actual": axis},
        )


def _require_float(x: Floats) -> None:
    if x.dtype not in (np.float32, np.float64):
        raise DomainError(
            Reason.DTYPE_MISMATCH,
            f"the input is {x.dtype}, but must be float32 or float64",
            field="input",
            metadata={"expected": "float32 or float64", "actual": x.dtype},
        )


def _require_alike(x: Floats, dy: Floats) -> None:
    for reason, expected, actual in (
        (Reason.SHAPE_MISMATCH, list(x.shape), list(dy.shape)),
        (Reason.DTYPE_MISMATCH, x.dtype, dy.dtype),
    ):
        if actual != expected:
            raise DomainError(
                reason,
                f"the output gradient is {actual}, but the input is {expected}",
                field="output_gradient",
                metadata={"expected": expected, "actual": actual},
            )
