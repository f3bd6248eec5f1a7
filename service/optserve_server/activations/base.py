"""Base class of activations: a function of a tensor, and its derivative.

float16 and bfloat16 are computed in float32 and rounded once, as in PyTorch.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.narrow_floats import COMPUTE, NARROW, round_to, widen
from optserve_server.arrays.ops import NumpyOps, Ops, Value
from optserve_server.errors import DomainError, Reason, conflict_error, mismatch_error, out_of_range_error
from optserve_server.hyperparameters import Algorithm

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
"""An array of floats, of any shape."""

BLOCK = 1 << 15
"""Elements that a formula is evaluated for at a time."""


@dataclass(frozen=True)
class Activation(Algorithm):
    """A function of a tensor. Right at infinities; nan stays nan.

    Attributes:
        takes_slope: whether it wants a second tensor, its slope left of 0.
    """

    takes_slope: ClassVar[bool] = False

    def check_rank(self, rank: int) -> None:
        """Checks what the hyperparameters ask of an input of ``rank`` dimensions.

        Raises:
            DomainError: OUT_OF_RANGE, naming the hyperparameter.
        """
        if hasattr(self, "axis"):
            check_axis(self.axis, rank)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the output for an input of ``shape``.

        Raises:
            DomainError: SHAPE_MISMATCH with the field ``input``, and what `check_rank` raises.
        """
        self.check_rank(len(shape))
        return shape

    def evaluate(self, x: Floats, slope: Floats | None = None) -> Floats:
        """The activation of ``x``, in its dtype and of `output_shape`.

        Args:
            x: the input.
            slope: the slope, where the activation takes one; it broadcasts to ``x``.

        Raises:
            DomainError: DTYPE_MISMATCH with the field ``input``; FIELD_REQUIRED,
                CONFLICTING_FIELDS, SHAPE_MISMATCH or DTYPE_MISMATCH with the field
                ``slope``; and what `output_shape` raises.
        """
        _require_float(x)
        self._require_slope(x, slope)
        self.output_shape(x.shape)
        wide = widen(x)
        with np.errstate(all="ignore"):
            output = np.asarray(self._forward(wide, _widen_slope(slope)), wide.dtype)
        return round_to(output, x.dtype)

    def vjp(self, x: Floats, dy: Floats, slope: Floats | None = None) -> Floats:
        """The gradient with respect to ``x``, given ``dy``, that with respect to the output.

        Raises:
            DomainError: DTYPE_MISMATCH or SHAPE_MISMATCH with the field ``output_gradient``,
                and what `evaluate` raises.
        """
        self._check_gradient_arguments(x, dy, slope)
        wide = widen(x)
        with np.errstate(all="ignore"):
            product = np.asarray(self._backward(wide, widen(dy), _widen_slope(slope)), wide.dtype)
        return round_to(product, x.dtype)

    def slope_gradient(self, x: Floats, dy: Floats, slope: Floats) -> Floats:
        """The gradient with respect to the slope, of its shape. Sums are taken in float64.

        Raises:
            DomainError: what `vjp` raises.
        """
        raise conflict_error("slope", f"{self.name} takes no slope")

    def _check_gradient_arguments(self, x: Floats, dy: Floats, slope: Floats | None) -> None:
        _require_float(x)
        self._require_slope(x, slope)
        _check_shape_and_dtype(dy, self.output_shape(x.shape), x.dtype, "output_gradient", "output")

    def _require_slope(self, x: Floats, slope: Floats | None) -> None:
        if not self.takes_slope:
            if slope is not None:
                raise conflict_error("slope", f"{self.name} takes no slope")
            return
        if slope is None:
            raise DomainError(Reason.FIELD_REQUIRED, f"{self.name} takes a slope", field="slope")
        _check_shape_and_dtype(slope, slope.shape, x.dtype, "slope", "input")
        if not _is_broadcastable(slope.shape, x.shape):
            actual, wanted = list(slope.shape), list(x.shape)
            text = f"the slope is {actual}, which does not broadcast to {wanted}"
            raise mismatch_error(Reason.SHAPE_MISMATCH, "slope", f"broadcasts to {wanted}", actual, text)

    @abstractmethod
    def _forward(self, x: Floats, slope: Floats | None) -> Any: ...

    @abstractmethod
    def _backward(self, x: Floats, dy: Floats, slope: Floats | None) -> Any: ...


@dataclass(frozen=True)
class ElementwiseActivation(Activation):
    """A function of each element alone, in straight-line arithmetic that can be traced."""

    @abstractmethod
    def forward(self, ops: Ops, x: Value) -> Value:
        """The activation of one element."""

    @abstractmethod
    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        """The derivative at one element, times ``dy``."""

    def _forward(self, x: Floats, slope: Floats | None) -> Any:
        return apply_in_blocks(functools.partial(self.forward, NumpyOps()), x)

    def _backward(self, x: Floats, dy: Floats, slope: Floats | None) -> Any:
        return apply_in_blocks(functools.partial(self.gradient, NumpyOps()), x, dy)


def apply_in_blocks(formula: Callable[..., Any], *arrays: Floats) -> Any:
    """``formula`` of arrays of one shape, by blocks whose intermediate results stay in the cache."""
    first = arrays[0]
    if first.size <= BLOCK:
        return formula(*arrays)
    out = np.empty(first.shape, first.dtype)
    flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    for start in range(0, first.size, BLOCK):
        block = slice(start, start + BLOCK)
        out.reshape(-1)[block] = formula(*(array[block] for array in flat))
    return out


def check_axis(axis: int, rank: int) -> None:
    """Checks that a tensor of ``rank`` dimensions has the axis.

    Raises:
        DomainError: OUT_OF_RANGE with the field ``axis``.
    """
    if not -rank <= axis < rank:
        allowed = f"in [{-rank}, {rank})"
        text = f"axis is {axis}, but must be {allowed} for a tensor of {rank} dimensions"
        raise out_of_range_error("axis", axis, allowed, text)


def _require_float(x: Floats) -> None:
    if x.dtype not in (*NARROW, *COMPUTE):
        expected = "float16, bfloat16, float32 or float64"
        raise mismatch_error(Reason.DTYPE_MISMATCH, "input", expected, x.dtype)


def _widen_slope(slope: Floats | None) -> Floats | None:
    return None if slope is None else widen(slope)


def _check_shape_and_dtype(
    array: Floats, shape: tuple[int, ...], dtype: np.dtype[Any], field: str, model: str
) -> None:
    for reason, expected, actual in (
        (Reason.SHAPE_MISMATCH, list(shape), list(array.shape)),
        (Reason.DTYPE_MISMATCH, dtype, array.dtype),
    ):
        if actual != expected:
            text = f"{field} is {actual}, but the {model} is {expected}"
            raise mismatch_error(reason, field, expected, actual, text)


def _is_broadcastable(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    extents = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(extent in (1, target) for extent, target in extents)
