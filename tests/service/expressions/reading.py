"""Reads expressions of y_pred and y_true for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.ops import NumpyOps
from optserve_server.errors import DomainError, Reason
from optserve_server.expressions.formula import evaluate_formula

PREDICTION = np.array([-2.0, -0.5, 0.0, 0.75, 3.0])
TARGET = np.array([1.0, -0.5, 2.0, 0.25, -4.0])


def read(text: str, **numbers: float) -> Any:
    """The expression's value on the arrays above."""
    with np.errstate(all="ignore"):
        return evaluate_formula(text, NumpyOps(), {"y_pred": PREDICTION, "y_true": TARGET}, numbers)


def expect_refusal(text: str, **numbers: float) -> tuple[str, str]:
    """Position and quotation of the error that the expression is refused with."""
    with pytest.raises(DomainError) as caught:
        read(text, **numbers)
    error = caught.value
    assert (error.reason, error.field) == (Reason.INVALID_EXPRESSION, "expression")
    line, column = error.metadata["position"].split(":")
    assert error.message.startswith(f"line {line}, column {column} of the expression: ")
    assert error.message.isprintable()
    assert len(error.message) < 160
    return error.metadata["position"], error.metadata["text"]
