"""Gradients of some rows, with plain loops.

A table is a list of rows, each a list of numbers; of a tensor with one dimension, an element
is a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from tests.conformance.oracle.optimizers import root

Table = list[list[float]]
Given = Mapping[int, list[float]]
"""Rows by index."""

Rule = Callable[[float, list[float], float, float, int], float]
"""From an element, its state (changed in place), its gradient, the rate and the number of the
session's step to the element after it."""


def sum_rows(indices: Iterable[int], rows: Iterable[Sequence[float]]) -> dict[int, list[float]]:
    """Every row once; those that come more than once are added up in order."""
    total: dict[int, list[float]] = {}
    for index, row in zip(indices, rows, strict=True):
        before = total.get(index, [0.0] * len(row))
        total[index] = [a + b for a, b in zip(before, row, strict=True)]
    return total


def whole(rows: Given, shape: tuple[int, ...]) -> list[float]:
    """The gradient of every element, 0 in rows that were not given."""
    width = math.prod(shape[1:])
    return [x for index in range(shape[0]) for x in rows.get(index, [0.0] * width)]


def sgd(p: float, state: list[float], g: float, lr: float, t: int) -> float:
    return p - lr * g


def adagrad(*, epsilon: float, initial: float, decay: float) -> tuple[Rule, list[float]]:
    def rule(p: float, state: list[float], g: float, lr: float, t: int) -> float:
        state[0] += g * g
        return p - lr / (1 + (t - 1) * decay) * g / root(state[0], epsilon, "OUTSIDE")

    return rule, [initial]


def adam(*, beta1: float, beta2: float, epsilon: float) -> tuple[Rule, list[float]]:
    """With both bias corrections in the rate."""

    def rule(p: float, state: list[float], g: float, lr: float, t: int) -> float:
        state[0] = beta1 * state[0] + (1 - beta1) * g
        state[1] = beta2 * state[1] + (1 - beta2) * g * g
        rate = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        return p - rate * state[0] / root(state[1], epsilon, "OUTSIDE")

    return rule, [0.0, 0.0]


def lazy(
    parameters: Mapping[str, Table],
    calls: Sequence[Mapping[str, Given]],
    rates: Sequence[float],
    rule: Rule,
    first: Sequence[float] = (),
    l2: float = 0.0,
    largest: float = math.inf,
    epsilon: float = 1e-6,
) -> list[dict[str, Table]]:
    """The tables after each call, where the rows alone move that it gives.

    Args:
        parameters: the tables before the first call.
        calls: the rows of each call.
        rates: the rate of each call.
        rule: moves one element.
        first: state of an element before the first call.
        l2: factor of the rows that is added to their gradients.
        largest: joint norm of all rows given, to which longer gradients are cut.
        epsilon: what is added to the norm that is cut.
    """
    tables = {name: [list(row) for row in table] for name, table in parameters.items()}
    states = {n: [[list(first) for _ in row] for row in table] for n, table in tables.items()}
    path = []
    for t, (call, rate) in enumerate(zip(calls, rates, strict=True), 1):
        moves = [
            (name, i, j, g + l2 * tables[name][i][j])
            for name, rows in call.items()
            for i, row in rows.items()
            for j, g in enumerate(row)
        ]
        length = math.sqrt(math.fsum(g * g for *_, g in moves))
        scale = min(1.0, largest / (length + epsilon))
        for name, i, j, g in moves:
            tables[name][i][j] = rule(tables[name][i][j], states[name][i][j], scale * g, rate, t)
        path.append({name: [list(row) for row in table] for name, table in tables.items()})
    return path
