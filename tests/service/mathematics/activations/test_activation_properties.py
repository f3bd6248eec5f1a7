"""Every activation's gradient against central differences, wherever it has a derivative."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optserve_server.activations import REGISTRY
from optserve_server.activations.gated.normal_tail import upper_tail
from optserve_server.arrays.ops import NumpyOps
from tests.service.mathematics.differences import numeric_gradient

POSITIVE = st.floats(0.1, 5)
AXIS = st.sampled_from([0, 1, -1, -2])
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "leaky_relu": {"negative_slope": st.floats(0, 2)},
    "softmax": {"axis": AXIS},
    "rrelu": {"lower": st.floats(0, 0.2), "training": st.booleans(), "seed": st.integers(0, 2**63 - 1)},
    "elu": {"alpha": POSITIVE},
    "celu": {"alpha": POSITIVE},
    "gelu": {"approximate": st.booleans()},
    "softplus": {"beta": POSITIVE},
    "log_softmax": {"axis": AXIS},
    "relu": {
        "max_value": st.sampled_from([None, 3.0]),
        "negative_slope": st.sampled_from([0.0, 0.25]),
        "threshold": st.sampled_from([0.0, 3.0, -3.0]),
    },
    "threshold": {"threshold": st.sampled_from([0.0, 3.0]), "value": st.floats(-2, 2)},
    "hard_tanh": {"min_value": st.sampled_from([-3.0, 0.0]), "max_value": st.just(3.0)},
    "hard_shrink": {"threshold": st.sampled_from([0.0, 3.0])},
    "soft_shrink": {"threshold": st.sampled_from([0.0, 3.0])},
    "squareplus": {"b": POSITIVE},
    "softmin": {"axis": AXIS},
    "sparsemax": {"axis": AXIS},
    "glu": {"axis": AXIS},
    "maxout": {"group_size": st.sampled_from([1, 2]), "axis": AXIS},
}
KINKS = (-3.0, -1.0, 0.0, 1.0, 3.0, 6.0)
WIDTH = 1e-5

ELEMENT = st.floats(-30, 30).filter(lambda x: all(abs(x - kink) > 3 * WIDTH for kink in KINKS))
MATRIX = st.lists(ELEMENT, min_size=8, max_size=8).map(lambda flat: np.array(flat).reshape(2, 4))
NEAR_ZERO = MATRIX.map(lambda x: x / 8)
GRADIENT = st.lists(st.floats(-2, 2), min_size=8, max_size=8)


def distance_from_threshold(x: np.ndarray, axis: int) -> np.ndarray:
    """Inputs without the number that sparsemax takes off them."""
    falling = -np.sort(-x, axis=axis)
    count = np.arange(1, x.shape[axis] + 1).reshape((-1, 1) if axis in (0, -2) else (1, -1))
    return x - ((np.cumsum(falling, axis=axis) - 1) / count).max(axis=axis, keepdims=True)


def has_ties(x: np.ndarray) -> bool:
    """Whether two elements are so near that a difference could exchange their order."""
    return bool(np.diff(np.sort(x, axis=None)).min() < 3 * WIDTH)


@pytest.mark.parametrize("name", REGISTRY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_gradients_are_central_differences(name: str, data: st.DataObject) -> None:
    knobs = {key: data.draw(values, key) for key, values in HYPERPARAMETERS.get(name, {}).items()}
    activation = REGISTRY[name](**knobs)
    numbers = NEAR_ZERO if name in ("exponential", "sparsemax") else MATRIX
    x = data.draw(numbers.filter(lambda x: not has_ties(x)) if name == "maxout" else numbers, "x")
    if name == "sparsemax":
        assume(np.abs(distance_from_threshold(x, knobs["axis"])).min() > 3 * WIDTH)
    slope = data.draw(MATRIX, "slope") if activation.takes_slope else None
    shape = activation.output_shape(x.shape)
    dy = np.array(data.draw(GRADIENT, "dy")[: math.prod(shape)]).reshape(shape)

    def value(x: np.ndarray) -> float:
        return math.fsum((activation.evaluate(x, slope) * dy).ravel())

    # The rounding of values up to 30*8*2 over the width, and the third derivative's share.
    numeric = numeric_gradient(value, x, WIDTH)
    assert activation.vjp(x, dy, slope) == pytest.approx(numeric, rel=1e-6, abs=2e-7)
    if slope is not None:
        by_slope = numeric_gradient(lambda s: math.fsum((activation.evaluate(x, s) * dy).ravel()), slope)
        assert activation.slope_gradient(x, dy, slope) == pytest.approx(by_slope, rel=1e-6, abs=1e-5)


OF_OTHER_FORM = ("maxout", "glu", "exponential")
"""The first has a required hyperparameter and the first two smaller outputs; the last overflows."""


@pytest.mark.parametrize("name", [cls.name for cls in REGISTRY.values() if cls.name not in OF_OTHER_FORM])
@settings(max_examples=60, deadline=None)
@given(x=st.floats(width=32, allow_nan=False), sign=st.sampled_from([-1.0, 1.0]))
def test_every_number_and_infinity_has_a_value_and_a_derivative(name: str, x: float, sign: float) -> None:
    activation = REGISTRY[name]()
    for dtype in (np.float32, np.float64):
        given_ = np.array([x, 0.5], dtype)
        slope = np.array(0.25, dtype) if activation.takes_slope else None
        assert not np.isnan(activation.evaluate(given_, slope)).any()
        assert np.isfinite(activation.vjp(given_, np.full(2, sign, dtype), slope)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_normal_tail_keeps_its_digits(dtype: type) -> None:
    a = np.concatenate([np.linspace(0, 1, 500), np.linspace(1, 8, 1500)]).astype(dtype)
    a_exact = a.astype(float)
    exact = np.array([exact_tail(v) for v in a_exact])
    wrong = np.abs(upper_tail(NumpyOps(), a).astype(float) / exact - 1) / (float(np.finfo(dtype).eps) / 2)
    own = 2 if dtype is np.float64 else 0  # the reference is not exact either
    assert (wrong <= 5 + a_exact**2 / 2 + own).all()


def exact_tail(a: float) -> float:
    """erfc(a/sqrt(2))/2, to first order in what rounding its argument leaves out."""
    near = a / math.sqrt(2)
    rest = (Fraction(a) ** 2 / 2 - Fraction(near) ** 2) / (2 * Fraction(near)) if a else Fraction(0)
    slope = -2 / math.sqrt(math.pi) * math.exp(-near * near)
    return (math.erfc(near) + slope * float(rest)) / 2
