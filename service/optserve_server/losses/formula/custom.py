"""A formula of the caller's own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.interpreter import interpret_program
from optserve_server.arrays.kernel import Kernel
from optserve_server.arrays.ops import NumpyOps
from optserve_server.arrays.program import Load, Program, Scalar
from optserve_server.errors import within
from optserve_server.expressions.formula import FUNCTIONS
from optserve_server.expressions.named_numbers import check_named_numbers
from optserve_server.hyperparameters import NamedNumbers, hyper
from optserve_server.losses.base import Evaluated, Floats, Loss, Reduction, apply_weights
from optserve_server.losses.formula.custom_programs import (
    PREDICTION,
    SLOPE,
    TARGET,
    VALUE,
    VARIABLES,
    Programs,
    compile_programs,
)

KEPT_KERNELS = 128
"""Kernels of callers' own formulas that are kept."""


@dataclass(frozen=True)
class Custom(Loss):
    """mean(f(p, y)) over the last axis; the gradient is f'(p, y)/n.

    Element by element, f is the expression of y_pred and y_true that the caller sends. The
    mean is that of every other loss over the last axis; the lecture's sum over the batch,
    if there is one output, is the reduction SUM.
    """

    compiles: ClassVar[bool] = True

    expression: str = hyper()
    constants: NamedNumbers = hyper(())

    def validate(self) -> None:
        """Checks the names of the constants, and that the expression can be read.

        Raises:
            DomainError: INVALID_EXPRESSION with the field ``expression``; MALFORMED_NAME or
                OUT_OF_RANGE with the field ``constants``.
        """
        with within("constants"):
            check_named_numbers(self.constants, {*FUNCTIONS, *VARIABLES})
        _ = self.programs  # raises what is wrong with the expression

    @property
    def programs(self) -> Programs:
        """What the expression is compiled to."""
        return compile_programs(self.expression, self.constants)

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
        """Losses and gradient from one kernel; see `Loss.evaluate`."""
        y = self._check_and_prepare(prediction, target, sample_weight)
        program, numbers = self.programs.both if with_gradient else self.programs.value
        found = _run_program(backend, program, numbers, prediction, y)
        values = np.asarray(_mean_over_last_axis(found[VALUE]), prediction.dtype)
        gradient = None
        if with_gradient:
            slope = np.asarray(found[SLOPE] * (1 / max(prediction.shape[-1], 1)), prediction.dtype)
            gradient = self._scale_gradient(slope, target, reduction, sample_weight)
        return Evaluated(apply_weights(values, sample_weight), gradient)

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        return _mean_over_last_axis(_interpret_program(*self.programs.value, prediction, target)[VALUE])

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        slope = _interpret_program(*self.programs.both, prediction, target)[SLOPE]
        return slope * (1 / max(prediction.shape[-1], 1))


def _run_program(
    backend: Backend, program: Program, numbers: Mapping[str, float], prediction: Floats, target: Floats
) -> dict[str, Floats]:
    """What a program stores, computed by a backend, in the prediction's shape."""
    dtype, shape = prediction.dtype, prediction.shape
    stored = [name for name, _ in program.stores]
    arrays = {name: backend.full(prediction.size, 0.0, dtype) for name in stored}
    for name, array in ((PREDICTION, prediction), (TARGET, target)):
        arrays[name] = backend.from_host(np.ascontiguousarray(array).reshape(-1))
    _compile_kernel(backend, program, dtype)({name: arrays[name] for name in program.arrays}, numbers)
    return {name: backend.to_host(arrays[name]).reshape(shape) for name in stored}


@functools.lru_cache(maxsize=KEPT_KERNELS)
def _compile_kernel(backend: Backend, program: Program, dtype: np.dtype[Any]) -> Kernel:
    """The kernel of a formula, kept while it is among the last ones."""
    return backend.compile(program, dtype, {}, keep=False)


def _interpret_program(
    program: Program, numbers: Mapping[str, float], prediction: Floats, target: Floats
) -> dict[str, Floats]:
    """What a program stores, computed by NumPy without a backend, operation for operation."""
    values: dict[Load | Scalar, Any] = {Load(PREDICTION): prediction, Load(TARGET): target}
    for name, number in numbers.items():
        values[Scalar(name)] = prediction.dtype.type(number)
    stored = interpret_program(program, NumpyOps(), values)
    return {name: np.broadcast_to(value, prediction.shape) for name, value in stored.items()}


def _mean_over_last_axis(values: Floats) -> npt.NDArray[np.float64]:
    """The mean over the last axis, summed in float64."""
    return np.asarray(np.sum(values, axis=-1, dtype=np.float64) / max(values.shape[-1], 1))
