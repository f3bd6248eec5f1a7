"""The whole corpus over a socket, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.conformance.comparator import judge
from tests.conformance.corpus import Case, cases
from tests.conformance.served import Client

each_dtype = pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)], ids=str)


def each(family: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in cases(family)])


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    connected = Client(server.address)
    yield connected
    connected.close()


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
