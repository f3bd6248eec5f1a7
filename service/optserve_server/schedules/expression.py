"""A formula of the caller's own, which stands for PyTorch's LambdaLR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.arrays.ops import NumpyOps
from optserve_server.errors import within
from optserve_server.expressions.formula import FUNCTIONS, Function, evaluate_formula
from optserve_server.expressions.named_numbers import check_named_numbers
from optserve_server.hyperparameters import NamedNumbers, hyper
from optserve_server.schedules.base import Rates, Schedule, Steps

STEP = "step"
"""The variable."""

MORE_FUNCTIONS = {
    "floor": Function(1, np.floor),
    "cos": Function(1, np.cos),
    "mod": Function(2, np.mod),
    "power": Function(2, np.power),
}
"""Functions beside those of every expression; the power takes any exponent."""


@dataclass(frozen=True)
class Expression(Schedule):
    """f(s), where f is the expression of the variable `step` that the caller sends."""

    expression: str = hyper()
    constants: NamedNumbers = hyper(())

    def validate(self) -> None:
        """Checks the names of the constants, and that the expression can be read.

        Raises:
            DomainError: INVALID_EXPRESSION with the field ``expression``; MALFORMED_NAME or
                OUT_OF_RANGE with the field ``constants``.
        """
        with within("constants"):
            check_named_numbers(self.constants, {STEP, *FUNCTIONS, *MORE_FUNCTIONS})
        self.rates(np.zeros(1, np.int64))  # raises what is wrong with the expression

    def curve(self, steps: Steps) -> Rates:
        variables = {STEP: steps.astype(np.float64)}
        value = evaluate_formula(self.expression, NumpyOps(), variables, dict(self.constants), MORE_FUNCTIONS)
        return np.array(np.broadcast_to(value, len(steps)), np.float64)
