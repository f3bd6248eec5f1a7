"""Programs that compute a caller's expression and its derivative."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from optserve_server.arrays.constant_replacement import replace_constants
from optserve_server.arrays.differentiation import differentiate_program
from optserve_server.arrays.program import Program
from optserve_server.arrays.trace import Tracer
from optserve_server.expressions.expression_error import expression_error
from optserve_server.expressions.formula import evaluate_formula
from optserve_server.hyperparameters import NamedNumbers

PREDICTION, TARGET, VALUE, SLOPE = "prediction", "target", "value", "slope"
"""The arrays of the programs."""

VARIABLES = ("y_pred", "y_true")
"""What an expression calls prediction and target."""

MAX_INSTRUCTIONS = 512
"""Operations on an element, the derivative's included: what a compiler takes a second for."""

Numbered: TypeAlias = tuple[Program, Mapping[str, float]]
"""A program and its scalars."""


@dataclass(frozen=True)
class Programs:
    """What an expression is compiled to.

    Attributes:
        value: stores `VALUE`.
        both: stores `VALUE` and `SLOPE`, its derivative with respect to the prediction.
    """

    value: Numbered
    both: Numbered


@functools.lru_cache(maxsize=256)
def compile_programs(expression: str, constants: NamedNumbers) -> Programs:
    """The programs of an expression.

    Raises:
        DomainError: INVALID_EXPRESSION with the field ``expression``.
    """
    t = Tracer()
    variables = dict(zip(VARIABLES, (t.load(PREDICTION), t.load(TARGET)), strict=True))
    t.store(VALUE, evaluate_formula(expression, t, variables, dict(constants)))
    value = t.build_program()
    if PREDICTION not in value.arrays:
        raise expression_error(expression, 0, len(expression), "it does not depend on y_pred")
    both = differentiate_program(value, VALUE, PREDICTION, SLOPE)
    if len(both.instructions) > MAX_INSTRUCTIONS:
        what = f"with its derivative it takes more than {MAX_INSTRUCTIONS} operations"
        raise expression_error(expression, 0, len(expression), what)
    return Programs(replace_constants(value), replace_constants(both))
