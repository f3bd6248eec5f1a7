"""The corpus over a socket, against a real server."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.conformance import corpus
from tests.conformance.served import Client
from tests.conformance.table import Column, fill
from tests.conformance.tasks import FLOAT32, FLOAT64, tasks, verify
from tests.support.tiers import slow_unless

FILES = corpus.files()
BY_ID = {task.id: task for task in tasks()}


@pytest.mark.parametrize("name", slow_unless(corpus.ONE_OF_EACH.__contains__, FILES))
def test_server(name: str, client: Client) -> None:
    assert fill(Column("server", client), FILES[name]).gaps == []


@pytest.mark.parametrize("name", ["groups-order_of_one_step", "by_value-two_ends", "by_tensor_norm-torch"])
def test_gradient_on_numba(name: str, numba_client: Client) -> None:
    """Some of the family; tests/executors holds Numba to NumPy's bits for all of it."""
    verify(numba_client, BY_ID[f"gradient-{name}-{FLOAT32}"])


@pytest.mark.parametrize("gradient_type", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["adam-keras", "rmsprop-torch_momentum_centered", "rprop-torch"])
def test_half_precision_gradients(name: str, gradient_type: Any, client: Client) -> None:
    """The corpus' gradients are exact in both, so they lead to the same parameters."""
    dtype = np.dtype(gradient_type)
    verify(lambda task: client.session(task, dtype), BY_ID[f"optimizers-{name}-{FLOAT64}"])
