"""Operations for the formulas of rules, losses and activations.

A formula receives an `Ops` and values that support ``+ - * /``, unary ``-`` and the
comparisons ``< <= > >= ==``. The same formula runs on NumPy arrays (`NumpyOps`) and on
symbols (`optserve_server.arrays.trace`). Every operation has one meaning everywhere,
that of NumPy on arrays of the parameters' dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from optserve_server.arrays.program import Op

Value: TypeAlias = Any
"""An array, a symbol or a number: whatever the given `Ops` works on."""


class Ops(ABC):
    """Elementary functions over values."""

    @abstractmethod
    def record_operation(self, op: Op, *values: Value) -> Value:
        """The result of one operation."""

    def sqrt(self, x: Value) -> Value:
        """The square root, correctly rounded."""
        return self.record_operation(Op.SQRT, x)

    def abs(self, x: Value) -> Value:
        """The absolute value."""
        return self.record_operation(Op.ABS, x)

    def sign(self, x: Value) -> Value:
        """-1, 0 or 1; nan where ``x`` is nan."""
        return self.record_operation(Op.SIGN, x)

    def maximum(self, a: Value, b: Value) -> Value:
        """The greater value; nan where either is nan, ``b`` where they are equal."""
        return self.record_operation(Op.MAXIMUM, a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        """The smaller value; nan where either is nan, ``b`` where they are equal."""
        return self.record_operation(Op.MINIMUM, a, b)

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        """``a`` where the condition holds, otherwise ``b``."""
        return self.record_operation(Op.SELECT, condition, a, b)

    def exp(self, x: Value) -> Value:
        """The exponential function."""
        return self.record_operation(Op.EXP, x)

    def expm1(self, x: Value) -> Value:
        """``exp(x) - 1``, accurate near 0."""
        return self.record_operation(Op.EXPM1, x)

    def log(self, x: Value) -> Value:
        """The natural logarithm."""
        return self.record_operation(Op.LOG, x)

    def log1p(self, x: Value) -> Value:
        """``log(1 + x)``, accurate near 0."""
        return self.record_operation(Op.LOG1P, x)

    def tanh(self, x: Value) -> Value:
        """The hyperbolic tangent."""
        return self.record_operation(Op.TANH, x)


NUMPY: Mapping[Op, Callable[..., Any]] = {
    op: getattr(np, {Op.SELECT: "where", Op.NEGATE: "negative"}.get(op, op.value)) for op in Op
}
"""NumPy's function for each operation."""


class NumpyOps(Ops):
    """`Ops` on NumPy arrays: the reference."""

    def record_operation(self, op: Op, *values: Value) -> Value:
        """The result of one operation."""
        return NUMPY[op](*values)
