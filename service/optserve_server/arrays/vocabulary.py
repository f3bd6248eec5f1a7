"""Operations for the formulas of rules, losses and activations.

A formula receives an `Ops` and values that support ``+ - * /``, unary ``-`` and the
comparisons ``< <= > >= ==``. The same formula runs on NumPy arrays (`NumpyOps`) and on
symbols (`optserve_server.arrays.trace`). Every operation has one meaning everywhere,
that of NumPy on arrays of the parameters' dtype.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np

Value: TypeAlias = Any
"""An array, a symbol or a number: whatever the given `Ops` works on."""


class Ops(Protocol):
    """Elementary functions over values."""

    def sqrt(self, x: Value) -> Value:
        """The square root, correctly rounded."""

    def abs(self, x: Value) -> Value:
        """The absolute value."""

    def sign(self, x: Value) -> Value:
        """-1, 0 or 1; nan where ``x`` is nan."""

    def maximum(self, a: Value, b: Value) -> Value:
        """The greater value; nan where either is nan."""

    def minimum(self, a: Value, b: Value) -> Value:
        """The smaller value; nan where either is nan."""

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        """``a`` where the condition holds, otherwise ``b``."""

    def exp(self, x: Value) -> Value:
        """The exponential function."""

    def expm1(self, x: Value) -> Value:
        """``exp(x) - 1``, accurate near 0."""

    def log(self, x: Value) -> Value:
        """The natural logarithm."""

    def log1p(self, x: Value) -> Value:
        """``log(1 + x)``, accurate near 0."""

    def tanh(self, x: Value) -> Value:
        """The hyperbolic tangent."""


class NumpyOps:
    """`Ops` on NumPy arrays: the reference."""

    sqrt = staticmethod(np.sqrt)
    abs = staticmethod(np.abs)
    sign = staticmethod(np.sign)
    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    where = staticmethod(np.where)
    exp = staticmethod(np.exp)
    expm1 = staticmethod(np.expm1)
    log = staticmethod(np.log)
    log1p = staticmethod(np.log1p)
    tanh = staticmethod(np.tanh)
