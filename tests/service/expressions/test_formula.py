"""What expressions mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from optserve_server.expressions.formula import FUNCTIONS, MAX_EXPONENT, MAX_NODES
from optserve_server.expressions.lexical_check import MAX_DEPTH, MAX_LENGTH
from tests.service.expressions.reading import PREDICTION as P
from tests.service.expressions.reading import TARGET as T
from tests.service.expressions.reading import read

MEANINGS: dict[str, Any] = {
    "y_pred": P,
    "y_pred - y_true": P - T,
    "2*y_pred + y_true/4": 2 * P + T / 4,
    "-y_pred - -y_true": -P + T,
    "+y_pred": P,
    "(y_pred - y_true)*3": (P - T) * 3,
    "1 - y_pred*2 - 3": 1 - P * 2 - 3,
    "y_pred**2": P * P,
    "y_pred**3": P * P * P,
    "-y_pred**2": -(P * P),
    "power(y_pred, 5)": P**5,
    "(y_true + 9)**-2": 1 / (T + 9) ** 2,
    "power(y_true, 1)": T,
    "y_pred**0 + y_true": 1 + T,
    "y_pred**(1 + 1)": P * P,
    "where(y_pred < y_true, 1, 2)": np.where(P < T, 1, 2),
    "where(y_pred <= y_true, y_pred, 2)": np.where(P <= T, P, 2),
    "where(y_pred > y_true, 1, y_true)": np.where(P > T, 1, T),
    "where(0 >= y_pred, 1, 2)": np.where(P <= 0, 1, 2),
    "where(y_pred == y_true, 1, 2)": np.where(P == T, 1, 2),
    "where(y_pred != y_true, 1, 2)": np.where(P != T, 1, 2),
    "where(1 < 2, y_pred, y_true)": P,
    "where(1 != 1, y_pred, y_true)": T,
    "maximum(y_pred, 0.5)": np.maximum(P, 0.5),
    "minimum(0, y_true)": np.minimum(0, T),
    "abs(y_pred)": np.abs(P),
    "sqrt(abs(y_pred))": np.sqrt(np.abs(P)),
    "exp(y_pred)": np.exp(P),
    "expm1(y_pred)": np.expm1(P),
    "log(1 + y_pred**2)": np.log(1 + P * P),
    "log1p(abs(y_pred))": np.log1p(np.abs(P)),
    "tanh(y_pred)": np.tanh(P),
    "sign(y_pred)": np.sign(P),
    "1e-3*y_pred + .5 + 2. + 1E2": 1e-3 * P + 0.5 + 2 + 100,
    "\n y_pred\r\n\t- y_true \n": P - T,
}


@pytest.mark.parametrize("text", MEANINGS)
def test_an_expression_means_what_it_says(text: str) -> None:
    assert read(text) == pytest.approx(MEANINGS[text], rel=1e-15)


def test_every_function_is_among_them() -> None:
    assert all(any(f"{name}(" in text for text in MEANINGS) for name in FUNCTIONS)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7.0),
        ("2**10/4 - 1", 255.0),
        ("sqrt(2)*sqrt(2)", math.sqrt(2) ** 2),
        ("where(sqrt(4) == 2, log(exp(1)), 0)", 1.0),
        ("maximum(COST, RATE*2)", 3.0),
        ("-COST", -3.0),
        ("12345678901234567890", 12345678901234567890.0),
    ],
)
def test_numbers_alone_are_computed_in_float64(text: str, number: float) -> None:
    found = read(text, COST=3, RATE=0.5)
    assert isinstance(found, float)
    assert found == number


def test_named_numbers_are_numbers() -> None:
    assert read("COST*(y_pred - y_true)**POWER", COST=3, POWER=2) == pytest.approx(3 * (P - T) ** 2)


def test_nan_takes_the_branch_that_numpy_takes() -> None:
    nan = "y_pred*0*log(-abs(y_pred))"
    assert read(f"where({nan} == 1, 1, 2)").tolist() == [2] * 5
    assert read(f"where({nan} != 1, 1, 2)").tolist() == [1] * 5


def test_an_expression_of_the_greatest_size_is_read() -> None:
    assert read("+".join(["y_pred"] * (MAX_DEPTH - 0))) == pytest.approx(MAX_DEPTH * P)
    assert read("(" * MAX_DEPTH + "y_pred" + ")" * MAX_DEPTH) == pytest.approx(P)
    pairs = MAX_NODES // 4 - 3
    tree = "y_pred"
    for _ in range(pairs):
        tree = f"({tree})" if tree.count("(") < MAX_DEPTH - 2 else tree
    assert read(tree) == pytest.approx(P)
    assert read("y_pred".ljust(MAX_LENGTH)) == pytest.approx(P)
    assert read(f"y_pred**{MAX_EXPONENT}") == pytest.approx(P**MAX_EXPONENT)
    assert read(f"(y_pred + 9)**-{MAX_EXPONENT}") == pytest.approx((P + 9) ** -MAX_EXPONENT)


def balance(leaves: int) -> str:
    """A sum whose tree is as flat as can be: twice as many nodes as leaves, less one."""
    if leaves == 1:
        return "y_pred"
    return f"({balance(leaves // 2)}+{balance(leaves - leaves // 2)})"


def test_as_many_parts_as_are_allowed() -> None:
    text = balance(MAX_NODES // 2).replace("y_pred", "1")
    assert len(text) <= MAX_LENGTH
    assert read(text) == MAX_NODES // 2
