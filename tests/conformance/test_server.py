"""The whole corpus over a socket, against a real server."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.conformance.comparator import judge
from tests.conformance.corpus import Case, cases
from tests.conformance.served import Client

each_dtype = pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)], ids=str)


def each(family: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in cases(family)])


@each_dtype
@each("optimizers")
def test_optimizer(case: Case, dtype: np.dtype[Any], client: Client) -> None:
    answer = client.optimizer(case, dtype)
    judge(answer, case.expected, case.tolerance[dtype.name], dtype, "optimizers")


@each_dtype
@each("gradient")
def test_gradient(case: Case, dtype: np.dtype[Any], client: Client) -> None:
    answer = client.gradient(case, dtype)
    judge(answer, case.expected, case.tolerance[dtype.name], dtype, "gradient")


@pytest.mark.parametrize("name", ["groups-order_of_one_step", "by_value-two_ends", "by_tensor_norm-torch"])
def test_gradient_on_numba(name: str, numba_client: Client) -> None:
    """Some of the family; tests/executors holds Numba to NumPy's bits for all of it."""
    case, dtype = dict(cases("gradient"))[name], np.dtype(np.float32)
    judge(numba_client.gradient(case, dtype), case.expected, case.tolerance[dtype.name], dtype, "gradient")


@pytest.mark.parametrize("gradient_type", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["adam-keras", "rmsprop-torch_momentum_centered", "rprop-torch"])
def test_half_precision_gradients(name: str, gradient_type: Any, client: Client) -> None:
    """The corpus' gradients are exact in both, so they lead to the same parameters."""
    case, dtype = dict(cases("optimizers"))[name], np.dtype(np.float64)
    answer = client.optimizer(case, dtype, np.dtype(gradient_type))
    judge(answer, case.expected, case.tolerance[dtype.name], dtype, "optimizers")


@each("schedules")
def test_schedule(case: Case, client: Client) -> None:
    judge(client.schedule(case), case.expected, case.tolerance["float64"], np.float64, "schedules")


@each_dtype
@each("losses")
def test_loss(case: Case, dtype: np.dtype[Any], client: Client) -> None:
    answer = client.loss(case, dtype)
    assert answer["gradient"].dtype == answer["per_example"].dtype == dtype
    judge(answer, case.expected, case.tolerance[dtype.name], dtype, "losses")


@each_dtype
@each("activations")
def test_activation(case: Case, dtype: np.dtype[Any], client: Client) -> None:
    answer = client.activation(case, dtype)
    assert answer["output"].dtype == answer["input_gradient"].dtype == dtype
    judge(answer, case.expected, case.tolerance[dtype.name], dtype, "activations")


@each("layers")
def test_layer(case: Case, client: Client) -> None:
    assert client.layer(case) == case.expected
