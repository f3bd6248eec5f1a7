"""The whole corpus on the service's own code and each executor, without a server."""

from __future__ import annotations

import pytest

from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from tests.conformance.embedded import Embedded
from tests.conformance.tasks import Task, tasks, verify

BY_ID = {task.id: task for task in tasks()}
each_task = pytest.mark.parametrize("task", BY_ID.values(), ids=BY_ID.keys())


@pytest.fixture(scope="module")
def on_numpy() -> Embedded:
    return Embedded(NumpyBackend())


@pytest.fixture(scope="module")
def on_numba() -> Embedded:
    return Embedded(NumbaBackend())


@each_task
def test_numpy(task: Task, on_numpy: Embedded) -> None:
    verify(on_numpy, task)


@each_task
def test_numba(task: Task, on_numba: Embedded) -> None:
    verify(on_numba, task)
