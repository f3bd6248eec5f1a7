"""Losses by expression. JAX differentiates the same formulas; the yoghurt is the lecture's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from tests.conformance.oracle.losses import custom_losses as oracle
from tests.conformance.oracle.losses.elementwise_losses import Element, average
from tests.conformance.sources import functions
from tests.conformance.sources.losses import loss_run
from tests.conformance.sources.losses.loss_inputs import KINDS, Given, weigh
from tests.conformance.sources.row import Row

BATCH = "SUM_OVER_BATCH_SIZE"
YOGHURT = "where(y_pred > y_true, COST*(y_pred - y_true), PROFIT*(y_true - y_pred))"
DEAR_WASTE, DEAR_LOSS = {"COST": 99.0, "PROFIT": 1.0}, {"COST": 1.0, "PROFIT": 99.0}

SALES = {
    "prediction": [[2.0], [0.5], [1.25], [3.0], [0.0]],
    "target": [[1.5], [0.75], [1.25], [1.0], [2.0]],
}
"""Too much, too little, and one that is met."""

TIED = {
    "prediction": [[1.0, -0.5, 2.0], [0.0, 1.5, -1.0]],
    "target": [[1.0, 0.5, 2.0], [0.25, 1.5, -0.0]],
}
"""With equal pairs, where formulas bend."""


def row(
    case: str, source: str, expression: str, constants: Mapping[str, float], element: Element, given: Given,
    reduction: str = BATCH, note: str = "",
) -> Row:  # fmt: skip
    """A case; JAX is run on the expression itself, read as Python."""
    fields: dict[str, Any] = {"expression": expression}
    if constants:
        fields["constants"] = dict(constants)

    def each(p: Any, y: Any) -> Any:
        return jnp.mean(formula(expression, constants, p, y), axis=-1)

    framework = (lambda: loss_run.optax(each, given, reduction)) if source == "optax" else None
    convention = "LECTURE" if source == "lecture" else "OPTAX"
    line = average(element)
    return functions.loss(
        "custom", case, source, convention, reduction, fields, given, framework, line, note=note
    )  # fmt: skip


def formula(expression: str, constants: Mapping[str, float], p: Any, y: Any) -> Any:
    """One of the expressions of this file by JAX."""
    names = ("where", "maximum", "minimum", "power", "abs", "sqrt", "exp", "expm1", "log", "log1p", "tanh")
    known = {name: getattr(jnp, name) for name in (*names, "sign")}
    return eval(expression, {"__builtins__": {}}, {**known, **constants, "y_pred": p, "y_true": y})


def lecture_rows() -> list[Row]:
    rows = [
        row(f"lecture_{name}_{reduction.lower()}", "lecture", YOGHURT, costs,
            oracle.yoghurt(costs["COST"], costs["PROFIT"]), SALES, reduction)
        for name, costs in (("dear_waste", DEAR_WASTE), ("dear_loss", DEAR_LOSS))
        for reduction in (BATCH, "SUM", "NONE")
    ]  # fmt: skip
    return [
        *rows,
        row("lecture_numbers", "lecture",
            "where(y_pred > y_true, 1*(y_pred - y_true), 99*(y_true - y_pred))", {},
            oracle.yoghurt(1.0, 99.0), KINDS["real"], note="as the lecture prints it, over several outputs"),
    ]  # fmt: skip


def jax_rows() -> list[Row]:
    real, rational = KINDS["real"], "(y_true/(y_pred**2 + 1))**3 - power(y_true**2 + y_pred**2 + 1, -2)"
    return [
        row("jax_yoghurt", "optax", YOGHURT, DEAR_LOSS, oracle.yoghurt(1.0, 99.0), SALES),
        row("jax_yoghurt_weighted", "optax", YOGHURT, DEAR_WASTE, oracle.yoghurt(99.0, 1.0), weigh(real)),
        row("jax_smooth", "optax",
            "log1p((y_pred - y_true)**2) + tanh(y_pred/2)*exp(-y_true) - expm1(y_pred/4)", {},
            oracle.smooth, real),
        row("jax_rational", "optax", rational + " + 2**3*y_pred/(y_true**2 + 1)", {},
            oracle.rational, real, "SUM"),
        row("jax_rooted", "optax",
            "where(abs(y_pred - y_true) <= 1, (y_pred - y_true)**2, sqrt(abs(y_pred - y_true)))"
            " + log(y_pred**2 + 2)", {}, oracle.root_far_errors, real, "NONE"),
        row("jax_quantile_ties", "optax", "maximum(Q*(y_true - y_pred), (Q - 1)*(y_true - y_pred))",
            {"Q": 0.75}, oracle.quantile(0.75), TIED, note="half of each side where both are equal"),
        row("jax_held_ties", "optax",
            "where(y_pred != y_true, minimum(maximum(y_pred, -1), 1)*sign(y_true), y_pred**4)", {},
            oracle.clamp_and_weigh, TIED, note="half of each side where both are equal"),
    ]  # fmt: skip


def rows() -> list[Row]:
    """Every case of a loss by expression."""
    return [*lecture_rows(), *jax_rows()]
